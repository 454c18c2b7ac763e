#!/bin/sh
# dist/app from the tree, by PyInstaller. Called by make, which knows when it is needed.
set -eu
cd "$(dirname "$0")/.."
mkdir -p .build dist
log=.build/pyinstaller.log
echo "binary: building dist/app"
# Fixed seed and time, so that nothing in the file depends on the day or on chance.
PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-315532800} \
    .venv/bin/python -m PyInstaller build/app.spec --noconfirm --log-level WARN \
    --distpath .build/dist --workpath .build/pyinstaller >"$log" 2>&1 || {
    tail -n 30 "$log" >&2
    exit 1
}
# At once, and never half: somebody may be running the old one.
mv .build/dist/app dist/app
echo "binary: dist/app, $(stat -c %s dist/app | awk '{printf "%.1f MB", $1 / 1000000}')"
