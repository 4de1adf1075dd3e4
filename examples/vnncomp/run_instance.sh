#!/bin/sh
# VNN-COMP: run_instance.sh v1 CATEGORY ONNX SPEC.vnnlib RESULT.txt SECONDS
# STABLENET_READING says how a band joined by `and` is read: written (the default) or meant.
if [ "$1" != v1 ] || [ $# -ne 6 ]; then
    echo "usage: $0 v1 CATEGORY ONNX SPEC.vnnlib RESULT.txt SECONDS" >&2
    exit 2
fi
"${STABLENET:-stablenet}" run-instance "$3" "$4" "$5" "$6" --reading "${STABLENET_READING:-written}"
code=$?
[ $code -eq 3 ] && exit 0  # not decided: the result file says so
exit $code
