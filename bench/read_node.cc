#include "bench/read_node.h"

#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engram/table/stored_row.h"
#include "engram/transport/ucx/ucx_row_server.h"

namespace engram::bench {
namespace {

// Fills one region with every slot of the layout.
Status Fill(UcxRowServer& server, const std::shared_ptr<const TableLayout>& layout) {
  auto region = server.AllocateRegion(layout->total_bytes());
  if (!region.has_value()) return region.error();
  const auto slots = std::make_shared<ServedSlots>(kBenchVersion, kBenchIdentity, layout);
  const uint32_t row_bytes = layout->row_bytes();
  std::byte* at = region->bytes.data();
  std::vector<uint64_t> words((row_bytes + 7) / 8);
  for (uint32_t s = 0; s < layout->slot_count(); ++s) {
    const SlotRange& range = layout->slot(SlotIndex(s));
    const std::byte* first = at;
    for (uint32_t row = 0; row < range.row_count; ++row) {
      const RowAddress address((uint64_t{s} << layout->slot_shift()) + row);
      for (uint32_t w = 0; w < words.size(); ++w) words[w] = MadeUpWord(address, w);
      std::memcpy(at, words.data(), row_bytes);
      SealRow(kBenchVersion, layout->spec().hash.layer_ids[static_cast<size_t>(range.layer_index)],
              RowId(range.first_row.value() + row), at, row_bytes);
      at += layout->row_stride();
    }
    slots->Publish(SlotIndex(s), first,
                   {region->number, static_cast<uint64_t>(first - region->bytes.data())});
  }
  server.Serve(slots);
  return Status();
}

// The child's whole life: says its address, or "!" and why not, then waits for the end.
void Serve(const ReadNode::Options& options, const std::shared_ptr<const TableLayout>& layout,
           int channel) {
  UcxRowServerOptions server_options;
  server_options.listen_address = "127.0.0.1:0";
  server_options.incarnation = Incarnation(static_cast<uint64_t>(getpid()));
  server_options.tls = options.transport;
  server_options.one_sided = options.one_sided;
  server_options.gather_threads = options.gather_threads;
  auto server = UcxRowServer::Create(server_options);
  Status status = server.has_value() ? Fill(**server, layout) : server.error();
  const std::string line = status.ok() ? (*server)->address() : "!" + status.ToString();
  if (write(channel, line.data(), line.size()) != static_cast<ssize_t>(line.size())) return;
  char byte = 0;
  while (status.ok() && read(channel, &byte, 1) > 0) {
  }
}

}  // namespace

uint64_t MadeUpWord(RowAddress address, uint32_t word) {
  uint64_t x = (address.value() << 8 | word) * 0x9e3779b97f4a7c15ull;
  x ^= x >> 29;
  return x * 0xbf58476d1ce4e5b9ull;
}

Result<std::unique_ptr<ReadNode>> ReadNode::Start(
    const Options& options, const std::shared_ptr<const TableLayout>& layout) {
  int channel[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) != 0) {
    return Error(StatusCode::kIo, std::string("socketpair: ") + std::strerror(errno));
  }
  const pid_t child = fork();
  if (child < 0) return Error(StatusCode::kIo, std::string("fork: ") + std::strerror(errno));
  if (child == 0) {
    close(channel[0]);
    Serve(options, layout, channel[1]);
    _exit(0);
  }
  close(channel[1]);
  std::unique_ptr<ReadNode> node(new ReadNode(child, channel[0]));
  char text[512];
  const ssize_t size = read(channel[0], text, sizeof(text));
  if (size <= 0) return Error(StatusCode::kUnavailable, "the benchmark's memory node ended");
  node->address_.assign(text, static_cast<size_t>(size));
  if (node->address_[0] == '!') return Error(StatusCode::kUnavailable, node->address_.substr(1));
  return node;
}

ReadNode::~ReadNode() {
  close(channel_);
  for (int i = 0; i < 500; ++i) {
    if (waitpid(child_, nullptr, WNOHANG) != 0) return;
    usleep(10'000);
  }
  kill(child_, SIGKILL);
  waitpid(child_, nullptr, 0);
}

double ReadNode::CpuSeconds() const {
  std::ifstream stat("/proc/" + std::to_string(child_) + "/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), std::istreambuf_iterator<char>());
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;
  double user = 0;
  double system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace engram::bench
