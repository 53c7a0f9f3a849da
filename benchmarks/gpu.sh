#!/usr/bin/env bash
# Runs the CUDA tests and then the benchmarks on a GPU, each with a time limit and a log in the folder OUT.
#
#     bash benchmarks/gpu.sh OUT [STUDY]
#
# STUDY: a folder prepared by `python -m benchmarks.study --size gpu --minutes 0 --out STUDY` where the slides are; the rows of the study
# then run in it for MINUTES (default 8) minutes, six at a time under an MPS daemon. The same command resumes.
# Needs torch with CUDA, numpy, h5py, safetensors, simplejpeg, filelock and pytest, for the study also what sgcl evaluate needs
# (scikit-learn, matplotlib, jinja2, tifffile); tests of other packages are skipped.
# Nothing is piped, so a worker that is left over keeps no pipe open.
set -u
out=${1:?usage: gpu.sh OUT [STUDY]}
mkdir -p "$out"
out=$(realpath "$out")
study=${2:+$(realpath "$2")}
cd "$(dirname "$0")/.." || exit
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}

run() { # NAME SECONDS COMMAND...: shows the end of the log afterwards
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

if [ -n "$study" ]; then
    export CUDA_MPS_PIPE_DIRECTORY="$out/mps" CUDA_MPS_LOG_DIRECTORY="$out/mps"
    mkdir -p "$out/mps"
    nvidia-cuda-mps-control -d
    minutes=${MINUTES:-8}
    run study $((60 * minutes + 90)) "$python" -m benchmarks.study --size gpu --device cuda --processes 6 --threads 2 --workers 2 \
        --minutes "$minutes" --out "$study"
    echo quit | nvidia-cuda-mps-control
fi
