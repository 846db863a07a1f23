// What the scheduler should know about a thread. The threads that a batch's rows wait for sleep
// most of the time, and then work for some microseconds that others stand still for; where cores
// are few they must not queue behind threads that compute. Needs no privilege.
#pragma once

#include <chrono>
#include <string>

namespace engram {

// Time slices of I/O threads. Since Linux 6.12 a thread that wakes takes the core from one whose
// slice is longer (by default 1.4 ms and more), and else waits for that slice to end. A reader's is
// the shorter one, so that it posts to every node before a node on the same machine takes its core.
inline constexpr std::chrono::microseconds kReaderSlice{200};
inline constexpr std::chrono::microseconds kServerSlice{500};

// Names the calling thread (15 characters are kept) and asks for time slices of `slice`: no larger
// share of the cores, only sooner.
void BecomeIoThread(const std::string& name, std::chrono::microseconds slice);

// Lowers the calling thread's priority, once, to nice 5: among the threads of a full machine the
// I/O threads come first. (Only relative weights matter; a thread alone on its core runs as fast.)
void BecomeComputeThread();

}  // namespace engram
