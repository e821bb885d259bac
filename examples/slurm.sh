#!/bin/bash
# One training on a Slurm cluster that outlives the job's time limit: it stops with a checkpoint and queues itself again.
#
#   sbatch examples/slurm.sh --config config/llama-97M.yaml --train-path /data/corpus
#   PROCESSES=4 sbatch --gpus-per-task=4 examples/slurm.sh --config config/llama-360M.yaml
#
# 120 s before the limit Slurm sends SIGUSR1 to this script alone (B:). The script passes it on, the training ends its
# step, writes a checkpoint and exits with 138 (128 + SIGUSR1), and the job is queued again under the same number.
# Every start says --resume_from_checkpoint: without a checkpoint that starts at step 0.
#
#SBATCH --job-name=babyllama
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=babyllama-%j.log

PROCESSES="${PROCESSES:-1}" # on this machine: one a GPU
PYTHON="${PYTHON:-python}"
command=("$PYTHON")
if [ "$PROCESSES" -gt 1 ]; then
    # torchrun passes on only the signals it is told to, and kills what has not ended 30 s later if not told otherwise.
    command=("$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$PROCESSES"
        --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout 110)
fi

signalled=0
pass_on() {
    signalled=1
    kill -USR1 "$child" # srun sends it on to its task
}
trap pass_on USR1

srun --ntasks=1 --kill-on-bad-exit=1 "${command[@]}" train.py "$@" --resume_from_checkpoint &
child=$!
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do # a signal ends `wait` before the child has ended: wait for the checkpoint
    wait "$child"
    code=$?
done

# One process exits with 138 itself. torchrun answers any end but success with 1: there the signal that we passed on tells.
if [ "$code" -eq 138 ] || { [ "$code" -ne 0 ] && [ "$signalled" -eq 1 ]; }; then
    echo "time limit: stopped with a checkpoint, queued again"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
