#!/usr/bin/env bash
# Snakemake runs this in the new environment, from the folder it was started in.
set -euo pipefail
python -m pip install --no-deps --no-build-isolation --editable .
