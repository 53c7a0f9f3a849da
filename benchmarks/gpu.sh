#!/usr/bin/env bash
# What a GPU says: the CUDA tests, then the benchmarks, each with its own limit and its own log in the folder given.
#
#     bash benchmarks/gpu.sh OUT
#
# Needs torch with CUDA, numpy, h5py, safetensors, simplejpeg and filelock; what else is missing costs its tests only.
# Nothing is piped, so a worker that was left over keeps nothing open.
set -u
out=${1:?usage: gpu.sh OUT}
mkdir -p "$out"
cd "$(dirname "$0")/.." || exit
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}

run() { # NAME SECONDS COMMAND...: the log is shown when it is done
    local name=$1 limit=$2
    shift 2
    printf '\n== %s\n' "$name"
    setsid -w timeout -s KILL "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null
    local code=$?
    tail -n 60 "$out/$name.log"
    printf '== %s ended with %s\n' "$name" "$code"
}

"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name(0))' || exit
run tests 180 "$python" -m pytest -m cuda -p no:cacheprovider tests/method tests/engine
run objective 120 "$python" benchmarks/objective.py --device cuda --patches 100000 681486 --batches 32 256 --growth --bias 0
for flag in '' --compile; do
    run "pretrain$flag" 120 "$python" benchmarks/pretrain.py --device cuda --only loop --batch 256 --steps 60 \
        --sides 128 256 --workers "$(nproc)" $flag
done
