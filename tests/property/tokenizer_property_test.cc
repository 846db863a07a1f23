// BPE against the obvious model: merge the best pair, look again, until there is none.
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "engram/tokenizer/bpe_model.h"
#include "engram/tokenizer/tokenizer.h"
#include "engram/tokenizer/utf8.h"

namespace engram {
namespace {

// Tokens 0 to 255 are the bytes; merges join any two tokens that exist by then.
TokenizerDefinition AnyDefinition() {
  TokenizerDefinition definition;
  for (int byte = 0; byte < 256; ++byte) {
    definition.byte_ids[static_cast<size_t>(byte)] = byte;
    definition.tokens.push_back(std::string(1, static_cast<char>(byte)));
  }
  const int merges = *rc::gen::inRange(0, 30);
  for (int i = 0; i < merges; ++i) {
    // Half of the time among "a", "b", "c", else among the new tokens too.
    const auto any_part = [&] {
      return *rc::gen::oneOf(
          rc::gen::inRange<TokenId>('a', 'd'),
          rc::gen::inRange<TokenId>(255, static_cast<TokenId>(definition.tokens.size())));
    };
    const TokenId left = any_part();
    const TokenId right = any_part();
    definition.tokens.push_back(definition.tokens[static_cast<size_t>(left)] +
                                definition.tokens[static_cast<size_t>(right)]);
    definition.merges.push_back({left, right, static_cast<TokenId>(definition.tokens.size() - 1)});
  }
  return definition;
}

std::vector<TokenId> SlowEncode(const TokenizerDefinition& definition, const std::string& piece) {
  std::map<std::pair<TokenId, TokenId>, std::pair<size_t, TokenId>> ranks;
  for (size_t rank = 0; rank < definition.merges.size(); ++rank) {
    const MergeRule& rule = definition.merges[rank];
    ranks[{rule.left, rule.right}] = {rank, rule.merged};
  }
  std::vector<TokenId> ids;
  for (const char c : piece) ids.push_back(definition.byte_ids[static_cast<uint8_t>(c)]);
  while (true) {
    size_t best = ids.size();
    size_t best_rank = definition.merges.size();
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = ranks.find({ids[i], ids[i + 1]});
      if (found == ranks.end() || found->second.first >= best_rank) continue;
      best_rank = found->second.first;
      best = i;
    }
    if (best == ids.size()) return ids;
    ids[best] = ranks.at({ids[best], ids[best + 1]}).second;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

RC_GTEST_PROP(TokenizerPropertyTest, MergingEqualsTheSlowModel, ()) {
  const TokenizerDefinition definition = AnyDefinition();
  const BpeModel model(definition, definition.tokens);
  const auto piece = *rc::gen::container<std::string>(rc::gen::element('a', 'a', 'b', 'c', 'd'));
  BpeScratch scratch;
  std::vector<TokenId> ids;
  model.Encode(piece, scratch, ids);
  RC_ASSERT(ids == SlowEncode(definition, piece));
}

const Tokenizer& SmallTokenizer() {
  static const Tokenizer tokenizer = *Tokenizer::Load(ENGRAM_TEST_DATA "/tiny_tokenizer.json");
  return tokenizer;
}

RC_GTEST_PROP(TokenizerPropertyTest, DecodeOfEncodeIsTheRepairedText, (const std::string& text)) {
  std::string repaired;
  AppendRepaired(text, repaired);
  RC_ASSERT(SmallTokenizer().Decode(SmallTokenizer().Encode(text)) == repaired);
}

RC_GTEST_PROP(TokenizerPropertyTest, PiecesOfTheStreamDecoderJoinToTheDecodedText, ()) {
  const Tokenizer& tokenizer = SmallTokenizer();
  const auto ids = *rc::gen::container<std::vector<TokenId>>(
      rc::gen::inRange<TokenId>(-1, tokenizer.vocabulary_size() + 1));
  StreamDecoder decoder(&tokenizer);
  std::string text;
  for (const TokenId id : ids) {
    const std::string next = decoder.Next(id);
    RC_ASSERT(UnfinishedBytes(next) == 0u);
    text += next;
  }
  text += decoder.Finish();
  RC_ASSERT(text == tokenizer.Decode(ids));
}

}  // namespace
}  // namespace engram
