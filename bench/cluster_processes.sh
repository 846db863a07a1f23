# Shell functions for scripts that run a cluster on this machine (bench/offload, bench/backbone,
# tests/gpu/cluster): sets bin, tokenizer and prompts, and stops what was started at the end.
# Set before: `name`; `backend`, cuda or cpu (with cuda they skip where there is no GPU); `folder` to where
# the programs are, or empty: beside this file (tests/gpu/pack), else the backend's build.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -f "$here/tiny_tokenizer.json" ]; then
  bin=${folder:-$here} tokenizer=$here/tiny_tokenizer.json prompts=$here/demo-prompts.txt
  gpu_scripts=$here
else
  preset=release
  [ "$backend" = cpu ] || preset=cuda
  bin=${folder:-$here/../build/$preset/bin}
  tokenizer=$here/../tests/data/tiny_tokenizer.json prompts=$here/../deploy/demo-prompts.txt
  gpu_scripts=$here/../tests/gpu
fi
if [ "$backend" = cuda ] && ! nvidia-smi -L >/dev/null 2>&1; then
  echo "$name: skipped: there is no NVIDIA GPU here (nvidia-smi -L finds none)"
  exit 0
fi
if [ ! -x "$bin/engram-model-worker" ]; then
  echo "$name: no engram-model-worker in $bin: build it (README), or say where the programs are" >&2
  exit 1
fi
programs=$bin
source "$gpu_scripts/library_path.sh"

scratch=$(mktemp -d)
node_flags=()  # of the memory nodes
pids=()
stop_all() {
  local pid
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  pids=()
}
finish() {
  local status=$?
  trap - EXIT
  stop_all
  [ $status = 0 ] || tail -n 15 "$scratch"/*.log >&2 || true
  rm -rf "$scratch"
  exit $status
}
trap finish EXIT

# start NAME PROGRAM ARGUMENTS...: in the background, until it announces its addresses.
start() {
  local process=$1 i
  shift
  "$@" --announce-file "$scratch/$process.json" >"$scratch/$process.log" 2>&1 &
  pids+=($!)
  for ((i = 0; i < 600; ++i)); do
    [ -f "$scratch/$process.json" ] && return 0
    sleep 0.05
  done
  echo "$name: $process did not start" >&2
  return 1
}
field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2"; }

# backbone_shape SHAPE: sets sizes, the flags of make-model for a dense model of that shape, and
# vocabulary, the rows of its embedding and output matrices.
backbone_shape() {
  local hidden intermediate heads kv_heads head_dim=128 layers
  vocabulary=151936
  case "$1" in
    # Qwen3's.
    4b) hidden=2560 intermediate=9728 heads=32 kv_heads=8 layers=36 ;;
    8b) hidden=4096 intermediate=12288 heads=32 kv_heads=8 layers=36 ;;
    14b) hidden=5120 intermediate=17408 heads=40 kv_heads=8 layers=40 ;;
    # For CPUs: Qwen3's smallest, and some that take a few milliseconds a step.
    0.6b) hidden=1024 intermediate=3072 heads=16 kv_heads=8 layers=28 ;;
    small) hidden=192 intermediate=576 heads=3 kv_heads=1 head_dim=64 layers=36 vocabulary=4096 ;;
    small-v41) hidden=320 intermediate=960 heads=5 kv_heads=1 head_dim=64 layers=40 vocabulary=4096 ;;
    tiny) hidden=64 intermediate=64 heads=2 kv_heads=1 head_dim=32 layers=16 vocabulary=1024 ;;
    *) echo "$name: --shape is 4b, 8b, 14b, 0.6b, small, small-v41 or tiny, not $1" >&2; exit 2 ;;
  esac
  sizes=(--hidden $hidden --intermediate $intermediate --heads $heads --kv-heads $kv_heads
    --head-dim $head_dim --layers $layers --vocab-size $vocabulary)
}

# cluster STATE-NAME MODEL MEMORY: a coordinator and two memory nodes that hold it; sets coordinator.
cluster() {
  local node
  start "coordinator-$1" "$bin/engram-coordinator" --listen 127.0.0.1:0 --http 127.0.0.1:0 \
    --state "$scratch/$1.sqlite"
  coordinator=$(field "$scratch/coordinator-$1.json" rpc)
  for node in m0 m1; do
    start "$node-$1" "$bin/engram-shard-server" --id "$node" --coordinator "$coordinator" \
      --listen 127.0.0.1:0 --http 127.0.0.1:0 --memory "$3" --transport auto \
      "${node_flags[@]}"
  done
  "$bin/engramctl" create-version --coordinator "$coordinator" --model "$2" --expect-nodes 2 --wait
}
