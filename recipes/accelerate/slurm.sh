#!/usr/bin/env bash
# A recipe on several machines under Slurm: one launcher a machine, one process a GPU, the same numbers as on one GPU.
# Run:     sbatch recipes/accelerate/slurm.sh recipes/demo.yaml [further arguments of `hfpipe run`]
# Needs:   a file system that all machines see, for the repository, its .venv and runs/.
# Change:  the lines below; add --partition and --account as your site asks for them.
#SBATCH --job-name=hfpipe
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=hfpipe-%j.log
# A killed stage goes on from its last checkpoint, so the job may be queued again.
#SBATCH --requeue

set -euo pipefail

config=${CONFIG:-recipes/accelerate/multi-node.yaml} # or fsdp.yaml: machines and processes are given below
python=${PYTHON:-.venv/bin/python}
port=${PORT:-29500}
gpus=${GPUS_PER_NODE:-8} # as in --gpus-per-node

if [ "$#" -lt 1 ] || [ ! -f "$1" ]; then
    echo "usage: sbatch recipes/accelerate/slurm.sh RECIPE [ARGUMENT...]" >&2
    exit 2
fi
: "${SLURM_JOB_NODELIST:?start this script with sbatch}"

nodes=$SLURM_JOB_NUM_NODES
main=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / gpus))
export HFPIPE_PROCESSES=$((nodes * gpus)) # hfpipe stops if there are fewer

# Each machine finds its own number in SLURM_NODEID, so that part is expanded there and not here.
srun --kill-on-bad-exit=1 bash -c '
    python=$1 config=$2 nodes=$3 processes=$4 main=$5 port=$6
    shift 6
    exec "$python" -m accelerate.commands.launch --config_file "$config" \
        --num_machines "$nodes" --num_processes "$processes" --machine_rank "$SLURM_NODEID" \
        --main_process_ip "$main" --main_process_port "$port" -m hfpipe run "$@"
' hfpipe-node "$python" "$config" "$nodes" "$HFPIPE_PROCESSES" "$main" "$port" "$@"
