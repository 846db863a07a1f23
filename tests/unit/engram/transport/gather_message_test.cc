#include "engram/transport/gather_message.h"

#include <vector>

#include <gtest/gtest.h>

namespace engram {
namespace {

template <typename Header>
std::vector<std::byte> Bytes(const Header& header) {
  const auto bytes = std::as_bytes(std::span(&header, 1));
  return {bytes.begin(), bytes.end()};
}

TEST(GatherMessageTest, GoodRequestDecodesToItself) {
  GatherRequestHeader request;
  request.row_count = 3;
  request.session = 77;
  request.read = 5;
  const auto decoded = DecodeGatherRequest(Bytes(request), 24);
  EXPECT_EQ(decoded.status, StatusCode::kOk);
  EXPECT_EQ(decoded.header.session, 77u);
  EXPECT_EQ(decoded.header.read, 5u);
}

TEST(GatherMessageTest, RequestOfNoRowsOrTooManyIsRefusedAndMayBeAnswered) {
  GatherRequestHeader request;
  for (const uint32_t count : {0u, kReadRowsMax + 1, 0xffffffffu}) {
    request.row_count = count;
    const auto decoded = DecodeGatherRequest(Bytes(request), uint64_t{count} * 8);
    EXPECT_EQ(decoded.status, StatusCode::kInvalidArgument);
    EXPECT_TRUE(decoded.has_header);
  }
}

TEST(GatherMessageTest, RequestWhoseBodyIsNotItsRowsIsMalformed) {
  GatherRequestHeader request;
  request.row_count = 3;
  for (const uint64_t bytes : {0u, 23u, 25u, 32u}) {
    EXPECT_EQ(DecodeGatherRequest(Bytes(request), bytes).status, StatusCode::kMalformed);
  }
}

TEST(GatherMessageTest, WrongLengthOrFirstWordNamesNoSession) {
  GatherRequestHeader request;
  request.row_count = 1;
  auto bytes = Bytes(request);
  bytes.pop_back();
  EXPECT_FALSE(DecodeGatherRequest(bytes, 8).has_header);
  bytes = Bytes(request);
  bytes[0] ^= std::byte{1};
  const auto decoded = DecodeGatherRequest(bytes, 8);
  EXPECT_FALSE(decoded.has_header);
  EXPECT_EQ(decoded.status, StatusCode::kMalformed);
}

TEST(GatherMessageTest, ReplyBodyIsRowsThenStatuses) {
  GatherReplyHeader reply;
  reply.row_count = 10;
  EXPECT_EQ(DecodeGatherReply(Bytes(reply), 2680, 268).status, StatusCode::kOk);
  EXPECT_EQ(DecodeGatherReply(Bytes(reply), 2690, 268).status, StatusCode::kMalformed);
  reply.flags = kReplyHasStatuses;
  EXPECT_EQ(DecodeGatherReply(Bytes(reply), 2690, 268).status, StatusCode::kOk);
  reply.flags = 2;
  EXPECT_EQ(DecodeGatherReply(Bytes(reply), 2680, 268).status, StatusCode::kMalformed);
}

TEST(GatherMessageTest, ReplyOfAnErrorHasNoBody) {
  GatherReplyHeader reply;
  reply.status = static_cast<uint32_t>(StatusCode::kWrongVersion);
  EXPECT_EQ(DecodeGatherReply(Bytes(reply), 0, 268).status, StatusCode::kOk);
  EXPECT_EQ(DecodeGatherReply(Bytes(reply), 268, 268).status, StatusCode::kMalformed);
  reply.status = 200;
  EXPECT_EQ(DecodeGatherReply(Bytes(reply), 0, 268).status, StatusCode::kMalformed);
}

TEST(GatherMessageTest, ReplyOfMoreRowsThanAReadMayHaveIsMalformed) {
  GatherReplyHeader reply;
  reply.row_count = kReadRowsMax + 1;
  EXPECT_EQ(DecodeGatherReply(Bytes(reply), uint64_t{reply.row_count} * 268, 268).status,
            StatusCode::kMalformed);
}

TEST(GatherMessageTest, LeaseMessagesHaveNoBodyAndNamedNumbers) {
  LeaseRequest request;
  request.sequence = 1;
  EXPECT_EQ(DecodeLeaseRequest(Bytes(request), 0).status, StatusCode::kOk);
  EXPECT_EQ(DecodeLeaseRequest(Bytes(request), 1).status, StatusCode::kMalformed);
  request.sequence = 0;
  EXPECT_EQ(DecodeLeaseRequest(Bytes(request), 0).status, StatusCode::kMalformed);
  // Without its last field, as format 1 was.
  request.sequence = 1;
  const std::vector<std::byte> older = Bytes(request);
  EXPECT_EQ(DecodeLeaseRequest(std::span(older).first(48), 0).status, StatusCode::kMalformed);
  LeaseGrant grant;
  EXPECT_EQ(DecodeLeaseGrant(Bytes(grant), 0).status, StatusCode::kOk);
  grant.status = kStatusCodeCount;
  EXPECT_EQ(DecodeLeaseGrant(Bytes(grant), 0).status, StatusCode::kMalformed);
}

TEST(GatherMessageTest, StatusesFromOutsideAreChecked) {
  std::vector<std::byte> statuses(4, std::byte{kStatusCodeCount - 1});
  EXPECT_TRUE(AreStatusCodes(statuses));
  statuses[3] = std::byte{kStatusCodeCount};
  EXPECT_FALSE(AreStatusCodes(statuses));
}

}  // namespace
}  // namespace engram
