#!/bin/sh
# Everything that can be said about the code without running it, and every shell's opinion of the
# scripts that compiling writes. Runs to the end and then fails if anything was wrong.
set -u
cd "$(dirname "$0")/.." || exit
PATH="$PWD/.venv/bin:$PATH"
status=0

check() {
    title=$1
    shift
    if output=$("$@" 2>&1); then
        printf 'lint: %-12s ok\n' "$title"
    else
        printf 'lint: %-12s WRONG\n%s\n' "$title" "$output"
        status=1
    fi
}

# A policy that brings out every part of the generated scripts.
# shellcheck disable=SC2317 # called by check
generated() {
    folder=$1
    cat >"$folder/orders.toml" <<'EOF'
version = 1
name = "orders"
extends = "sqlite"

[settings]
databases = ["/srv/it's a \"$(name)\"/orders.db"]

[freeze]
skip = ["/scratch"]

[framework]
pre_params = ["a b", "$(c)", "it's"]
post_params = ["-x"]
EOF
    mkdir "$folder/image"
    app compile "$folder/orders.toml" --root "$folder/image" --out /etc/azure
}

# shellcheck disable=SC2317 # called by check
published() {
    app schema | diff -u policies/policy.schema.json - || {
        echo "run make schema"
        return 1
    }
}

check "ruff check" ruff check --quiet --output-format concise .
check "ruff format" ruff format --quiet --diff .
check mypy mypy --no-error-summary
check imports lint-imports --no-cache
check shellcheck shellcheck build/*.sh build/portable/*.sh .ci/run
# shellcheck disable=SC2046 # names without spaces
check "guest's" shellcheck $(grep -rlE '^#! ?/bin/(busybox )?sh' tests/vm/guest)

check schema published

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
check compile generated "$scratch"
for name in pre post; do
    script=$scratch/image/etc/azure/stillframe/$name.sh
    check "$name.sh" shellcheck -s sh "$script"
    check "$name dash" dash -n "$script"
    check "$name busybox" busybox sh -n "$script"
    check "$name bash" bash --posix -n "$script"
done
exit "$status"
