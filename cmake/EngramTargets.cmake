# engram_library(NAME SOURCES ... [DEPS ...]): a static library engram_NAME, alias engram::NAME.
function(engram_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(engram_${name} STATIC ${ARG_SOURCES})
  add_library(engram::${name} ALIAS engram_${name})
  target_link_libraries(engram_${name} PUBLIC engram_options ${ARG_DEPS})
endfunction()

# engram_header_library(NAME [DEPS ...]): headers only.
function(engram_header_library name)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  add_library(engram_${name} INTERFACE)
  add_library(engram::${name} ALIAS engram_${name})
  target_link_libraries(engram_${name} INTERFACE engram_options ${ARG_DEPS})
endfunction()

# engram_program(NAME SOURCES ... [DEPS ...]): bin/NAME.
function(engram_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE engram_options ${ARG_DEPS})
endfunction()

if(ENGRAM_TESTS)
include(GoogleTest)
# What nearly every test includes, parsed once: half of a test's compile time.
# (A program, as tests are: a library's code is compiled for another kind of position.)
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/test_precompiled.cc CONTENT "int main() {}\n")
add_executable(engram_test_precompiled EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/test_precompiled.cc)
target_link_libraries(engram_test_precompiled PRIVATE engram_options GTest::gmock)
# A test's own code need not be fast, but should compile fast.
set(engram_test_options $<$<CONFIG:RelWithDebInfo>:-O1>)
target_compile_options(engram_test_precompiled PRIVATE ${engram_test_options})
target_precompile_headers(engram_test_precompiled PRIVATE
  <algorithm> <chrono> <filesystem> <fstream> <functional> <map> <memory> <mutex> <optional> <random>
  <span> <string> <thread> <vector> <gmock/gmock.h> <gtest/gtest.h>)
endif()

# Of every test that ctest runs.
set(engram_test_environment
  "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/tsan.supp"
  "LSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/lsan.supp"
  "ENGRAM_SANITIZER=${ENGRAM_SANITIZER}")
if(ENGRAM_SANITIZER STREQUAL "thread")
  # UCX's memory hooks run in threads that TSan has already taken down, and crash there.
  list(APPEND engram_test_environment "UCX_MEM_EVENTS=n")
endif()

# engram_test(NAME SOURCES ... [DEPS ...] [LABELS ...]): a GoogleTest program, one CTest test each
# case; LABELS out of unit property sim fuzz integration security mpi gpu rdma kubernetes (default unit).
function(engram_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE engram_options GTest::gmock GTest::gtest_main ${ARG_DEPS})
  target_precompile_headers(${name} REUSE_FROM engram_test_precompiled)
  target_compile_options(${name} PRIVATE ${engram_test_options})
  target_compile_definitions(${name} PRIVATE
    ENGRAM_TEST_DATA="${CMAKE_SOURCE_DIR}/tests/data" ENGRAM_BIN_DIR="${CMAKE_BINARY_DIR}/bin"
    ENGRAM_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT ${ARG_TIMEOUT})
  # gtest_discover_tests passes only the first of several values on: set them afterwards.
  set(environment_script ${CMAKE_CURRENT_BINARY_DIR}/${name}_environment.cmake)
  file(WRITE ${environment_script}
    "if(${name}_TESTS)\n"
    "  set_tests_properties(\${${name}_TESTS} PROPERTIES ENVIRONMENT \"${engram_test_environment}\" LABELS \"${ARG_LABELS}\")\n"
    "endif()\n")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${environment_script})
endfunction()

# engram_fuzzer(NAME SOURCES ... [DEPS ...]): a libFuzzer program, only in the fuzz preset; its seed
# corpus is tests/fuzz/corpus/NAME.
function(engram_fuzzer name)
  if(NOT ENGRAM_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE engram_options ${ARG_DEPS} -fsanitize=fuzzer)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  if(NOT TARGET fuzzers)
    add_custom_target(fuzzers)
  endif()
  add_dependencies(fuzzers ${name})
endfunction()
