#!/bin/sh
# VNN-COMP: prepare_instance.sh v1 CATEGORY ONNX SPEC.vnnlib
# Reads the files; any other exit code than 0 says that the instance is to be skipped.
if [ "$1" != v1 ] || [ $# -ne 4 ]; then
    echo "usage: $0 v1 CATEGORY ONNX SPEC.vnnlib" >&2
    exit 2
fi
exec "${STABLENET:-stablenet}" run-instance "$3" "$4" --only-read
