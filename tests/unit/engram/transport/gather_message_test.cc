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

TEST(GatherMessageTest, BothFormatsAreUnderstood) {
  GatherRequestHeader request;
  request.row_count = 3;
  request.read = 77;
  request.wanted_within_us = 5000;
  for (const uint32_t protocol : {1u, 2u}) {
    const auto bytes = EncodeGatherRequest(&request, protocol);
    EXPECT_EQ(bytes.size(), protocol == 1 ? 48u : 56u);
    const auto decoded = DecodeGatherRequest(bytes, 24);
    ASSERT_EQ(decoded.status, StatusCode::kOk) << decoded.fault;
    EXPECT_EQ(decoded.header.read, 77u);
    EXPECT_EQ(decoded.header.wanted_within_us, protocol == 1 ? 0u : 5000u);
  }
  GatherReplyHeader reply;
  reply.status = static_cast<uint32_t>(StatusCode::kResourceExhausted);
  reply.read = 78;
  reply.retry_after_us = 900;
  for (const uint32_t protocol : {1u, 2u}) {
    const auto bytes = EncodeGatherReply(&reply, protocol);
    EXPECT_EQ(bytes.size(), protocol == 1 ? 40u : 48u);
    const auto decoded = DecodeGatherReply(bytes, 0, 268);
    ASSERT_EQ(decoded.status, StatusCode::kOk) << decoded.fault;
    EXPECT_EQ(decoded.header.read, 78u);
    EXPECT_EQ(decoded.header.retry_after_us, protocol == 1 ? 0u : 900u);
  }
  // The length of one with the first word of the other.
  const auto mixed = std::as_bytes(std::span(&request, 1)).first(48);
  EXPECT_EQ(DecodeGatherRequest(mixed, 24).status, StatusCode::kMalformed);
}

TEST(GatherMessageTest, ReservedWordsAreZero) {
  GatherRequestHeader request;
  request.row_count = 1;
  request.reserved = 1;
  EXPECT_EQ(DecodeGatherRequest(EncodeGatherRequest(&request, 2), 8).status,
            StatusCode::kMalformed);
  GatherReplyHeader reply;
  reply.status = static_cast<uint32_t>(StatusCode::kIo);
  reply.reserved = 1;
  EXPECT_EQ(DecodeGatherReply(EncodeGatherReply(&reply, 2), 0, 268).status, StatusCode::kMalformed);
}

}  // namespace
}  // namespace engram
