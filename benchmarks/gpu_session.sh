#!/usr/bin/env bash
# All measurements of docs/performance.md that need a GPU, in about eight minutes; each has a time limit of its own.
#
#     OUT=DIR PYTHON=python3 bash benchmarks/gpu_session.sh
#
# Logs are written to $OUT, by default gpu_session/. One that fails or takes too long does not end the others.
set -u
cd "$(dirname "$0")/.."
out=${OUT:-gpu_session}
python=${PYTHON:-python}
export PYTHONPATH=tokenizers PYTHONUNBUFFERED=1
mkdir -p "$out"

run() { # name, seconds, words
  local name=$1 seconds=$2
  shift 2
  echo "== $name"
  timeout "$seconds" "$@" 2>&1 | tee "$out/$name.log"
  echo "== $name ended with status ${PIPESTATUS[0]} after ${SECONDS} s in all"
}

run trace 60 "$python" benchmarks/step_gpu.py --trace "$out/trace.txt"
run group_norm 40 "$python" benchmarks/group_norm_gpu.py
run tests 60 "$python" -m pytest -q -m gpu tests/kernels tests/training/test_updates.py
run ladder 200 "$python" benchmarks/step_gpu.py --seconds 40 \
  --variants "plain float32" "plain bfloat16" "ours exact" "ours fast, channels first" "ours fast, cuDNN untuned" "ours fast"
run search 40 "$python" benchmarks/nearest_gpu.py
run compiled 100 "$python" benchmarks/step_gpu.py --seconds 100 --variants "ours fast, compiled"
