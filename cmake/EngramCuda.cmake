# The CUDA toolkit and NCCL, for the cuda preset only. Looked for in build/cuda-toolkit and build/nccl
# (made by deploy/install-deps --cuda), then wherever CMake finds them.
if(NOT ENGRAM_CUDA)
  return()
endif()
set(ENGRAM_CUDA_TOOLKIT ${CMAKE_SOURCE_DIR}/build/cuda-toolkit)
if(NOT CMAKE_CUDA_COMPILER AND EXISTS ${ENGRAM_CUDA_TOOLKIT}/bin/nvcc)
  set(CMAKE_CUDA_COMPILER ${ENGRAM_CUDA_TOOLKIT}/bin/nvcc)
endif()
# Also when the folder is configured again, where the compiler is known from the first time.
if(CMAKE_CUDA_COMPILER STREQUAL "${ENGRAM_CUDA_TOOLKIT}/bin/nvcc")
  # The wheels keep their libraries in lib/, where nvcc looks in lib64/.
  list(APPEND CMAKE_LIBRARY_PATH ${ENGRAM_CUDA_TOOLKIT}/lib)
  set(CMAKE_CUDA_FLAGS "-L${ENGRAM_CUDA_TOOLKIT}/lib ${CMAKE_CUDA_FLAGS}")
endif()
include(CheckLanguage)
if(NOT CMAKE_CUDA_COMPILER)
  check_language(CUDA)
endif()
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "ENGRAM_CUDA=ON, but there is no nvcc. Run deploy/install-deps --cuda, or set "
    "CMAKE_CUDA_COMPILER, or use a preset without CUDA.")
endif()
set(CMAKE_CUDA_ARCHITECTURES 80-real 90 CACHE STRING "GPUs to compile for")
enable_language(CUDA)
# CMake 3.25 does not know that nvcc has C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
# Kernels call constexpr functions of the host's headers; warnings are errors, as in C++.
string(APPEND CMAKE_CUDA_FLAGS " --expt-relaxed-constexpr -Werror all-warnings -Xcompiler -Wall")
set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O3 -lineinfo")

# What the CUDA backend links: the runtime goes in statically, cuBLASLt is a library of the machine.
find_file(CUBLASLT_LIBRARY NAMES libcublasLt.so.13 libcublasLt.so HINTS ${ENGRAM_CUDA_TOOLKIT}/lib
  ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES} PATHS /usr/local/cuda/lib64 REQUIRED)
add_library(engram_cuda_libraries INTERFACE)
add_library(engram::cuda_libraries ALIAS engram_cuda_libraries)
target_include_directories(engram_cuda_libraries SYSTEM INTERFACE
  ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_link_libraries(engram_cuda_libraries INTERFACE ${CUBLASLT_LIBRARY})

find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CMAKE_SOURCE_DIR}/build/nccl/include)
find_file(NCCL_LIBRARY NAMES libnccl.so libnccl.so.2 HINTS ${CMAKE_SOURCE_DIR}/build/nccl/lib
  PATHS /usr/lib/x86_64-linux-gnu)
if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
  set(ENGRAM_NCCL ON)
  add_library(engram_nccl INTERFACE)
  add_library(engram::nccl ALIAS engram_nccl)
  target_include_directories(engram_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
  # Not linked: loaded where several ranks have GPUs, so that one GPU needs no NCCL.
  target_link_libraries(engram_nccl INTERFACE ${CMAKE_DL_LIBS})
else()
  set(ENGRAM_NCCL OFF)
  message(WARNING "NCCL is not here, so several GPUs will not be able to share a model: run "
    "deploy/install-deps --cuda, or set NCCL_INCLUDE_DIR and NCCL_LIBRARY, and configure again.")
endif()
message(STATUS "CUDA compiler ${CMAKE_CUDA_COMPILER_VERSION}, NCCL ${ENGRAM_NCCL}")
