# Flags that every target gets, through one interface target.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
# Line tables are enough for profiles and sanitizer reports, and link three times faster.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")

find_program(CCACHE ccache)
if(CCACHE)
  # Without this, ccache does not keep what uses a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER
    ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
  endif()
endif()

add_library(engram_options INTERFACE)
target_include_directories(engram_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(engram_options INTERFACE
  # Designated initialisers leave members at their defaults on purpose.
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Werror
    -Wno-missing-field-initializers>)
# GCC 12 reports false positives inside inlined library code for these (its bugs 105329, 105762);
# the last of them in frames of Boost.Asio's coroutines, which it allocates and frees in a pair.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(engram_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict -Wno-array-bounds -Wno-stringop-overflow
      -Wno-maybe-uninitialized -Wno-mismatched-new-delete>)
endif()

# Under sanitizers Clang cannot vectorise every loop that asks for it; that is no error.
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(engram_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-pass-failed>)
endif()

if(ENGRAM_SANITIZER)
  # -O1: reports with better lines, and a build in two thirds of the time.
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1")
  add_compile_options(-fsanitize=${ENGRAM_SANITIZER} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${ENGRAM_SANITIZER})
  # GCC warns about atomic_thread_fence under TSan from inside Boost.Asio, which does not rely on it.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(engram_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-tsan>)
  endif()
endif()
if(ENGRAM_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
endif()
