# Puts where cuBLAS and NCCL lie, and the libraries that tests/gpu/pack took along, on the loader's path: for
# scripts that run beside a GPU. Set `programs` before, the folder of the programs.
library_path=$programs/lib
if ! ldconfig -p | grep -q 'libcublasLt\.so\.13'; then
  # CUDA's own folder, else PyTorch's.
  for found in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib \
    "$(python3 -c 'import nvidia.cu13, os; print(os.path.join(list(nvidia.cu13.__path__)[0], "lib"))' \
      2>/dev/null)"; do
    if [ -n "$found" ] && [ -e "$found/libcublasLt.so.13" ]; then library_path+=:$found; break; fi
  done
fi
if ! ldconfig -p | grep -q 'libnccl\.so\.2'; then
  # PyTorch's.
  found=$(python3 -c 'import nvidia.nccl, os; print(os.path.join(list(nvidia.nccl.__path__)[0], "lib"))' \
    2>/dev/null || true)
  if [ -n "$found" ] && [ -e "$found/libnccl.so.2" ]; then library_path+=:$found; fi
fi
export LD_LIBRARY_PATH=$library_path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
