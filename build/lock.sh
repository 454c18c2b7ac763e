#!/bin/sh
# Pins every dependency, with hashes, for every Python that we support. Run it by hand to move to
# newer releases; it needs uv (pip install uv).
set -eu
cd "$(dirname "$0")/.."
lock() {
    out=$1
    shift
    uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet --upgrade \
        --no-annotate --custom-compile-command build/lock.sh --output-file "$out" "$@"
}
lock build/requirements-binary.txt --extra build
lock build/requirements-dev.txt --all-extras
