// cuBLASLt's part is played by matmul_on_host.cc: only the handle's name is needed.
#pragma once

using cublasLtHandle_t = void*;
