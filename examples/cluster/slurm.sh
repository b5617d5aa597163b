#!/bin/bash
# Calibrate a model and evaluate its card, on one node or several nodes of GPUs; README.md says how it is started.
#SBATCH --job-name=longstride
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-gpu=4
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

MODEL=${MODEL:?a model that longstride loads, such as google/ddpm-cifar10-32}
WORK=${WORK:-$PWD/longstride}                # on a disk that all nodes share
NFE=${SLURM_ARRAY_TASK_ID:-${NFE:-8}}        # sbatch --array=5,6,8,10 makes a card for each
SAMPLES=${SAMPLES:-50000}
PROMPTS=${PROMPTS:-}                         # a file of prompts: MODEL is a whole pipeline
CARD=$WORK/card-$NFE.json

mkdir -p "$WORK"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

together() {
    srun --kill-on-bad-exit=1 torchrun \
        --nnodes="$SLURM_NNODES" --nproc-per-node="$SLURM_GPUS_ON_NODE" \
        --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="${nodes[0]}:29500" \
        --max-restarts=3 -m longstride "$@"
}

if [ -n "$PROMPTS" ]; then
    made=(--prompts "$PROMPTS" --dtype bfloat16)
    measured=("${made[@]}" --solvers "ddim,dpmpp_2m,unipc3" --samples "$SAMPLES")
else
    made=(--batch-size 64)
    measured=(--solvers "ddim,dpmpp_2m,unipc3" --samples "$SAMPLES" --batch-size 256)
fi

# Both go on where they were stopped. A card that is there is finished.
[ -e "$CARD" ] || together calibrate "$MODEL" --nfe "$NFE" --out "$CARD" --device cuda "${made[@]}"
together evaluate "$MODEL" --card "$CARD" --nfe "$NFE" --out "$WORK/evaluation-$NFE" --device cuda "${measured[@]}"
