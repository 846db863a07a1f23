#include "model_worker/ranks/rank_command.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(RankCommandTest, APrefetchComesOutAsItWentIn) {
  const std::vector<TokenId> a = {1, 2, 3};
  const std::vector<TokenId> b = {7};
  const std::vector<uint8_t> dead = {0, 1, 0};
  const TokenRun runs[] = {{.history = b, .tokens = a, .tokens_dead = dead},
                           {.history = {}, .tokens = b}};
  BatchOptions batch;
  batch.deadline = std::chrono::milliseconds(1234);
  batch.striped = true;
  std::vector<std::byte> message;
  EncodePrefetch(Ticket(1ull << 40), 1, batch, runs, &message);
  RankCommand command;
  for (int again = 0; again < 2; ++again) {
    ASSERT_TRUE(DecodeRankCommand(message, &command).ok());
    EXPECT_EQ(command.kind, RankCommandKind::kPrefetch);
    EXPECT_EQ(command.ticket, Ticket(1ull << 40));
    EXPECT_EQ(command.source, 1u);
    EXPECT_EQ(command.batch.deadline, batch.deadline);
    EXPECT_TRUE(command.batch.striped);
    ASSERT_EQ(command.runs.size(), 2u);
    EXPECT_THAT(command.runs[0].history, ElementsAre(7));
    EXPECT_THAT(command.runs[0].tokens, ElementsAre(1, 2, 3));
    EXPECT_THAT(command.runs[0].history_dead, IsEmpty());
    EXPECT_THAT(command.runs[0].tokens_dead, ElementsAre(0, 1, 0));
    EXPECT_THAT(command.runs[1].history, IsEmpty());
    EXPECT_THAT(command.runs[1].tokens, ElementsAre(7));
  }
}

TEST(RankCommandTest, AStepComesOutAsItWentIn) {
  const std::vector<TokenId> a = {1, 2, 3};
  const std::vector<TokenId> b = {7};
  const SequenceStep steps[] = {{SequenceSlot(4), 100, a, false}, {SequenceSlot(0), 0, b, true}};
  const RowPiece pieces[] = {{Ticket(5), 2, 3}, {Ticket(6), 0, 1}};
  std::vector<std::byte> message;
  EncodeForward(steps, true, pieces, &message);
  RankCommand command;
  ASSERT_TRUE(DecodeRankCommand(message, &command).ok());
  EXPECT_EQ(command.kind, RankCommandKind::kForward);
  EXPECT_TRUE(command.engram_on);
  ASSERT_EQ(command.steps.size(), 2u);
  EXPECT_EQ(command.steps[0].slot, SequenceSlot(4));
  EXPECT_EQ(command.steps[0].position, 100u);
  EXPECT_FALSE(command.steps[0].logits_wanted);
  EXPECT_THAT(command.steps[0].tokens, ElementsAre(1, 2, 3));
  EXPECT_TRUE(command.steps[1].logits_wanted);
  EXPECT_THAT(command.steps[1].tokens, ElementsAre(7));
  ASSERT_EQ(command.pieces.size(), 2u);
  EXPECT_EQ(command.pieces[0].ticket, Ticket(5));
  EXPECT_EQ(command.pieces[0].first_token, 2u);
  EXPECT_EQ(command.pieces[1].token_count, 1u);
  // What it held before is gone.
  EncodeForward(std::span(steps).first(1), false, {}, &message);
  ASSERT_TRUE(DecodeRankCommand(message, &command).ok());
  EXPECT_FALSE(command.engram_on);
  EXPECT_EQ(command.steps.size(), 1u);
  EXPECT_THAT(command.pieces, IsEmpty());
}

TEST(RankCommandTest, SmallOnesComeOutAsTheyWentIn) {
  std::vector<std::byte> message;
  RankCommand command;
  EncodeRelease(Ticket(9), &message);
  ASSERT_TRUE(DecodeRankCommand(message, &command).ok());
  EXPECT_EQ(command.kind, RankCommandKind::kRelease);
  EXPECT_EQ(command.ticket, Ticket(9));
  EncodeResetSlot(SequenceSlot(3), &message);
  ASSERT_TRUE(DecodeRankCommand(message, &command).ok());
  EXPECT_EQ(command.kind, RankCommandKind::kResetSlot);
  EXPECT_EQ(command.slot, SequenceSlot(3));
  for (const auto kind : {RankCommandKind::kTellFigures, RankCommandKind::kStop}) {
    EncodePlain(kind, &message);
    ASSERT_TRUE(DecodeRankCommand(message, &command).ok());
    EXPECT_EQ(command.kind, kind);
  }
}

TEST(RankCommandTest, WhatIsCutOffOrTooLongOrUnknownIsMalformed) {
  const std::vector<TokenId> a = {1, 2, 3};
  const TokenRun run{.tokens = a};
  const SequenceStep step{SequenceSlot(4), 100, a, true};
  const RowPiece piece{Ticket(5), 2, 3};
  std::vector<std::byte> prefetch, forward, release;
  EncodePrefetch(Ticket(1), 0, {}, {&run, 1}, &prefetch);
  EncodeForward({&step, 1}, true, {&piece, 1}, &forward);
  EncodeRelease(Ticket(1), &release);
  RankCommand command;
  for (const auto& whole : {prefetch, forward, release}) {
    for (size_t size = 0; size < whole.size(); ++size) {
      EXPECT_EQ(DecodeRankCommand(std::span(whole).first(size), &command).code(),
                StatusCode::kMalformed)
          << size;
    }
    std::vector<std::byte> longer = whole;
    longer.push_back(std::byte{0});
    EXPECT_EQ(DecodeRankCommand(longer, &command).code(), StatusCode::kMalformed);
    std::vector<std::byte> unknown = whole;
    unknown[0] = std::byte{200};
    EXPECT_EQ(DecodeRankCommand(unknown, &command).code(), StatusCode::kMalformed);
  }
  // A count that the message has no room for must not be believed.
  std::vector<std::byte> lies = forward;
  for (size_t i = 2; i < 6; ++i) lies[i] = std::byte{0xff};
  EXPECT_EQ(DecodeRankCommand(lies, &command).code(), StatusCode::kMalformed);
}

}  // namespace
}  // namespace engram
