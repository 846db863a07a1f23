# Shell functions for scripts that run a cluster beside a GPU (tests/gpu/cluster, bench/offload): sets
# bin, tokenizer and prompts, skips where there is no GPU, and stops what was started at the end.
# Set `name` before, and `folder` to where the programs are, or empty.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${folder:-$here}
tokenizer=$bin/tiny_tokenizer.json
prompts=$bin/demo-prompts.txt
if [ ! -x "$bin/engram-model-worker" ]; then
  bin=$here/../../build/cuda/bin
  tokenizer=$here/../data/tiny_tokenizer.json
  prompts=$here/../../deploy/demo-prompts.txt
fi
if ! nvidia-smi -L >/dev/null 2>&1; then
  echo "$name: skipped: there is no NVIDIA GPU here (nvidia-smi -L finds none)"
  exit 0
fi

programs=$bin
source "$here/library_path.sh"

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

# backbone_shape 4b|8b: sets sizes, the flags of make-model for a dense model of that Qwen3 shape, and
# vocabulary, the rows of its embedding and output matrices.
backbone_shape() {
  vocabulary=151936
  case "$1" in
    4b) sizes=(--hidden 2560 --intermediate 9728 --heads 32 --kv-heads 8 --head-dim 128 --layers 36
    --vocab-size $vocabulary) ;;
    8b) sizes=(--hidden 4096 --intermediate 12288 --heads 32 --kv-heads 8 --head-dim 128 --layers 36
    --vocab-size $vocabulary) ;;
    *) echo "$name: --shape is 4b or 8b" >&2; exit 2 ;;
  esac
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
