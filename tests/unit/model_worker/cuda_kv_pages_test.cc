#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model_worker/cuda/kv_pages.h"

namespace engram::gpu {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

SequenceStep Step(uint32_t slot, uint32_t position, const std::vector<TokenId>& tokens) {
  return {SequenceSlot(slot), position, tokens, false};
}

TEST(KvPagesTest, APageIsAddedWhereASequenceCrossesItsEnd) {
  KvPages pages(2, 4, 8);
  std::vector<PageEntry> entries;
  const std::vector<TokenId> page(kPageTokens, 1), one(1, 1);
  const SequenceStep first[] = {Step(1, 0, page)};
  ASSERT_TRUE(pages.Extend(first, &entries).ok());
  EXPECT_THAT(entries, ElementsAre(PageEntry{4, 0}));
  entries.clear();
  const SequenceStep next[] = {Step(1, kPageTokens, one), Step(0, 0, one)};
  ASSERT_TRUE(pages.Extend(next, &entries).ok());
  EXPECT_THAT(entries, ElementsAre(PageEntry{5, 1}, PageEntry{0, 2}));
  entries.clear();
  const SequenceStep inside[] = {Step(1, kPageTokens + 1, one)};
  ASSERT_TRUE(pages.Extend(inside, &entries).ok());
  EXPECT_TRUE(entries.empty());
}

TEST(KvPagesTest, NoPageHasTwoOwnersAndAResetGivesThemBack) {
  KvPages pages(3, 4, 12);
  std::vector<PageEntry> entries;
  const std::vector<TokenId> four(4 * kPageTokens, 1);
  const SequenceStep all[] = {Step(0, 0, four), Step(1, 0, four), Step(2, 0, four)};
  ASSERT_TRUE(pages.Extend(all, &entries).ok());
  std::set<uint32_t> owned;
  for (const PageEntry& entry : entries) EXPECT_TRUE(owned.insert(entry.page).second);
  EXPECT_EQ(pages.free_count(), 0u);
  pages.Reset(1);
  EXPECT_EQ(pages.free_count(), 4u);
  entries.clear();
  const SequenceStep again[] = {Step(1, 0, four)};
  ASSERT_TRUE(pages.Extend(again, &entries).ok());
  EXPECT_EQ(entries.size(), 4u);
  pages.Reset(7);  // not a slot
}

TEST(KvPagesTest, AFullCacheIsAnErrorThatChangesNothing) {
  KvPages pages(2, 4, 3);
  std::vector<PageEntry> entries;
  const std::vector<TokenId> two(2 * kPageTokens, 1);
  const SequenceStep both[] = {Step(0, 0, two), Step(1, 0, two)};
  const Status status = pages.Extend(both, &entries);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("needs 4 more, 3 are free"));
  EXPECT_TRUE(entries.empty());
  EXPECT_EQ(pages.free_count(), 3u);
}

}  // namespace
}  // namespace engram::gpu
