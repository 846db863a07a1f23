#include <cerrno>
#include <cstring>
#include <set>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engram/checkpoint/safetensors.h"
#include "engram/checkpoint/strict_json.h"

namespace engram {
namespace {

constexpr size_t kShardFilesMax = 10000;
constexpr std::string_view kModelPrefix = "model.";

struct CloseFile {
  int fd;
  ~CloseFile() { ::close(fd); }
};

Status ReadExactly(int fd, uint64_t offset, char* target, size_t bytes,
                   const std::filesystem::path& file) {
  while (bytes > 0) {
    const ssize_t got = ::pread(fd, target, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return Status(StatusCode::kIo, "cannot read " + file.string() + ": " + std::strerror(errno));
    }
    if (got == 0) {
      return Status(StatusCode::kMalformed,
                    file.string() + " ends inside its header: it is truncated");
    }
    target += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<size_t>(got);
  }
  return Status();
}

Result<std::vector<TensorInfo>> ReadHeader(const std::filesystem::path& file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const auto code = errno == ENOENT ? StatusCode::kNotFound : StatusCode::kIo;
    return Error(code, "cannot open " + file.string() + ": " + std::strerror(errno));
  }
  const CloseFile closer{fd};
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    return Error(StatusCode::kIo, file.string() + " is not a file that can be read");
  }
  const auto file_bytes = static_cast<uint64_t>(info.st_size);
  unsigned char length_bytes[8];
  if (file_bytes < sizeof(length_bytes)) {
    return Error(StatusCode::kMalformed, file.string() + ": " + std::to_string(file_bytes) +
                                             " bytes are no safetensors file: it is truncated");
  }
  ENGRAM_TRY(ReadExactly(fd, 0, reinterpret_cast<char*>(length_bytes), sizeof(length_bytes), file));
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | length_bytes[i];
  if (header_bytes > kSafetensorsHeaderBytesMax) {
    return Error(StatusCode::kMalformed, file.string() + ": a header of " +
                                             std::to_string(header_bytes) + " bytes, at most " +
                                             std::to_string(kSafetensorsHeaderBytesMax) +
                                             " are allowed: not a safetensors file, or damaged");
  }
  if (header_bytes > file_bytes - sizeof(length_bytes)) {
    return Error(StatusCode::kMalformed, file.string() + ": a header of " +
                                             std::to_string(header_bytes) + " bytes in a file of " +
                                             std::to_string(file_bytes) + ": it is truncated");
  }
  std::string header(header_bytes, '\0');
  ENGRAM_TRY(ReadExactly(fd, sizeof(length_bytes), header.data(), header.size(), file));
  return ParseSafetensorsHeader(header, sizeof(length_bytes) + header_bytes, file_bytes, file);
}

}  // namespace

Result<std::map<std::string, std::string>> ParseSafetensorsIndex(std::string_view index_json,
                                                                 std::string_view name) {
  ENGRAM_ASSIGN_OR_RETURN(const auto document, ParseStrictJson(index_json, name));
  const auto weight_map = document.find("weight_map");
  if (weight_map == document.end() || !weight_map->is_object()) {
    return Error(StatusCode::kMalformed, std::string(name) + " has no object \"weight_map\"");
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, value] : weight_map->items()) {
    const auto* file = value.get_ptr<const std::string*>();
    if (file == nullptr) {
      return Error(StatusCode::kMalformed,
                   std::string(name) + ": the file of tensor " + Quoted(tensor) + " is not a text");
    }
    if (file->empty() || *file == "." || *file == ".." || file->find('/') != std::string::npos ||
        file->find('\0') != std::string::npos) {
      return Error(StatusCode::kMalformed, std::string(name) + ": tensor " + Quoted(tensor) +
                                               " is said to be in " + Quoted(*file) +
                                               ", expected the name of a file in the same folder");
    }
    files.emplace(tensor, *file);
  }
  return files;
}

Result<TensorIndex> TensorIndex::Open(const std::filesystem::path& model_dir) {
  TensorIndex index;
  const auto index_file = model_dir / "model.safetensors.index.json";
  auto index_json = ReadBoundedFile(index_file);
  if (!index_json.has_value()) {
    if (index_json.error().code() != StatusCode::kNotFound) return Error(index_json.error());
    auto tensors = ReadHeader(model_dir / "model.safetensors");
    if (!tensors.has_value() && tensors.error().code() == StatusCode::kNotFound) {
      return Error(StatusCode::kNotFound,
                   "no tensors in " + model_dir.string() +
                       ": neither model.safetensors.index.json nor model.safetensors is there");
    }
    if (!tensors.has_value()) return Error(tensors.error());
    for (TensorInfo& info : *tensors) index.tensors_.emplace(info.name, info);
    return index;
  }

  ENGRAM_ASSIGN_OR_RETURN(const auto file_of,
                          ParseSafetensorsIndex(*index_json, index_file.string()));
  std::set<std::string> files;
  for (const auto& [tensor, file] : file_of) files.insert(file);
  if (files.size() > kShardFilesMax) {
    return Error(StatusCode::kMalformed, index_file.string() + " names " +
                                             std::to_string(files.size()) + " files, at most " +
                                             std::to_string(kShardFilesMax) + " are allowed");
  }
  for (const std::string& file : files) {
    auto tensors = ReadHeader(model_dir / file);
    if (!tensors.has_value()) {
      if (tensors.error().code() != StatusCode::kNotFound) return Error(tensors.error());
      return Error(StatusCode::kMalformed,
                   index_file.string() + " names " + Quoted(file) + ", which is not there");
    }
    for (TensorInfo& info : *tensors) {
      const auto listed = file_of.find(info.name);
      if (listed == file_of.end()) continue;  // not part of the model, says the index
      if (listed->second != file) {
        return Error(StatusCode::kMalformed, index_file.string() + ": tensor " + Quoted(info.name) +
                                                 " is expected in " + listed->second +
                                                 ", found in " + file);
      }
      index.tensors_.emplace(info.name, info);
    }
  }
  for (const auto& [tensor, file] : file_of) {
    if (index.tensors_.count(tensor) == 0) {
      return Error(StatusCode::kMalformed, index_file.string() + ": tensor " + Quoted(tensor) +
                                               " is expected in " + file + ", found nowhere");
    }
  }
  return index;
}

const TensorInfo* TensorIndex::Find(std::string_view name) const {
  auto found = tensors_.find(name);
  if (found == tensors_.end()) found = tensors_.find(std::string(kModelPrefix).append(name));
  if (found == tensors_.end() && name.starts_with(kModelPrefix)) {
    found = tensors_.find(name.substr(kModelPrefix.size()));
  }
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace engram
