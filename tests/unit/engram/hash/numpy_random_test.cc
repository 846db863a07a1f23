#include "engram/hash/numpy_random.h"

#include <array>

#include <gtest/gtest.h>

namespace engram {
namespace {

// Expected values: numpy 1.24.2, np.random.SeedSequence(s).generate_state(4, np.uint64) and
// np.random.default_rng(s).bit_generator.random_raw(3) / .integers(0, h, 4, dtype=np.int64).
TEST(NumpyRandomTest, SeedSequenceGivesNumpysState) {
  EXPECT_EQ(SeedSequenceState(std::to_array<uint32_t>({0u})),
            (std::array<uint64_t, 4>{15793235383387715774u, 12390638538380655177u,
                                     2361836109651742017u, 3188717715514472916u}));
  EXPECT_EQ(SeedSequenceState(std::to_array<uint32_t>({1u})),
            (std::array<uint64_t, 4>{7434755675892716031u, 10007452063617845036u,
                                     5266248848659119178u, 15045448681910192573u}));
  EXPECT_EQ(SeedSequenceState(std::to_array<uint32_t>({140098u})),
            (std::array<uint64_t, 4>{15805499435905774270u, 12485762845600855621u,
                                     5860821814761405108u, 11501711722205355141u}));
  EXPECT_EQ(SeedSequenceState(std::to_array<uint32_t>({2309737967u, 19088743u})),
            (std::array<uint64_t, 4>{15816931203543540234u, 604558281483484763u,
                                     1264276378053843962u, 12146597486638754909u}));
  EXPECT_EQ(SeedSequenceState(std::to_array<uint32_t>({1u, 2u, 3u, 4u})),
            (std::array<uint64_t, 4>{15323499849503866763u, 1137675766983608796u,
                                     17626465009155310104u, 111943348029706411u}));
  EXPECT_EQ(SeedSequenceState(std::to_array<uint32_t>({1u, 2u, 3u, 4u, 5u, 6u})),
            (std::array<uint64_t, 4>{16991237094181161505u, 14981931853785751691u,
                                     11178459300072584630u, 1971961610505447179u}));
}

TEST(NumpyRandomTest, RawStreamIsNumpys) {
  {
    NumpyGenerator generator(0u);
    EXPECT_EQ(generator.Next64(), 11749869230777074271u);
    EXPECT_EQ(generator.Next64(), 4976686463289251617u);
    EXPECT_EQ(generator.Next64(), 755828109848996024u);
  }
  {
    NumpyGenerator generator(42u);
    EXPECT_EQ(generator.Next64(), 14276969152011380360u);
    EXPECT_EQ(generator.Next64(), 8095878257575067585u);
    EXPECT_EQ(generator.Next64(), 15838336090824644132u);
  }
  {
    NumpyGenerator generator(10007u);
    EXPECT_EQ(generator.Next64(), 15187255322829266483u);
    EXPECT_EQ(generator.Next64(), 959186003677246517u);
    EXPECT_EQ(generator.Next64(), 7126631698937927467u);
  }
  {
    NumpyGenerator generator(140098u);
    EXPECT_EQ(generator.Next64(), 13420388419549774097u);
    EXPECT_EQ(generator.Next64(), 10208617735032736636u);
    EXPECT_EQ(generator.Next64(), 6128116274024149523u);
  }
  {
    NumpyGenerator generator(4294967301u);
    EXPECT_EQ(generator.Next64(), 14281546376153053393u);
    EXPECT_EQ(generator.Next64(), 8683300866460616067u);
    EXPECT_EQ(generator.Next64(), 12836726618003871680u);
  }
  {
    NumpyGenerator generator(4611686018427387904u);
    EXPECT_EQ(generator.Next64(), 12759895332604378170u);
    EXPECT_EQ(generator.Next64(), 4962881485456711184u);
    EXPECT_EQ(generator.Next64(), 9691878161384574782u);
  }
}

TEST(NumpyRandomTest, BoundedDrawsAreNumpysEvenWhereDrawsAreRejected) {
  {
    NumpyGenerator generator(0u);
    EXPECT_EQ(generator.Below(46540000000000u), 29644196927940u);
    EXPECT_EQ(generator.Below(46540000000000u), 12555873658570u);
    EXPECT_EQ(generator.Below(46540000000000u), 1906907803990u);
    EXPECT_EQ(generator.Below(46540000000000u), 769196157497u);
    EXPECT_EQ(generator.Below(46540000000000u), 37849596932380u);
    EXPECT_EQ(generator.Below(46540000000000u), 42479644566505u);
    EXPECT_EQ(generator.Below(46540000000000u), 28232829004204u);
    EXPECT_EQ(generator.Below(46540000000000u), 33950769948195u);
  }
  {
    NumpyGenerator generator(10007u);
    EXPECT_EQ(generator.Below(4294967297u), 3536058432u);
    EXPECT_EQ(generator.Below(4294967297u), 223327894u);
    EXPECT_EQ(generator.Below(4294967297u), 1659298245u);
    EXPECT_EQ(generator.Below(4294967297u), 3414020522u);
    EXPECT_EQ(generator.Below(4294967297u), 1843754792u);
    EXPECT_EQ(generator.Below(4294967297u), 3248645799u);
    EXPECT_EQ(generator.Below(4294967297u), 955390609u);
    EXPECT_EQ(generator.Below(4294967297u), 96815629u);
  }
  {
    NumpyGenerator generator(140098u);
    EXPECT_EQ(generator.Below(4611686018427387904u), 3355097104887443524u);
    EXPECT_EQ(generator.Below(4611686018427387904u), 2552154433758184159u);
    EXPECT_EQ(generator.Below(4611686018427387904u), 1532029068506037380u);
    EXPECT_EQ(generator.Below(4611686018427387904u), 4093452195455176999u);
    EXPECT_EQ(generator.Below(4611686018427387904u), 2495520935813751150u);
    EXPECT_EQ(generator.Below(4611686018427387904u), 1858825678319892155u);
    EXPECT_EQ(generator.Below(4611686018427387904u), 3680920662205559597u);
    EXPECT_EQ(generator.Below(4611686018427387904u), 3674658666454283357u);
  }
  {
    NumpyGenerator generator(7u);
    EXPECT_EQ(generator.Below(6917529027641081857u), 4324116035284630516u);
    EXPECT_EQ(generator.Below(6917529027641081857u), 6206502512207226872u);
    EXPECT_EQ(generator.Below(6917529027641081857u), 5365828278596935045u);
    EXPECT_EQ(generator.Below(6917529027641081857u), 1557877273993399992u);
    EXPECT_EQ(generator.Below(6917529027641081857u), 6042831315724521140u);
    EXPECT_EQ(generator.Below(6917529027641081857u), 5680871422486561427u);
    EXPECT_EQ(generator.Below(6917529027641081857u), 3236953619344299372u);
    EXPECT_EQ(generator.Below(6917529027641081857u), 2096235608839123611u);
  }
  {
    NumpyGenerator generator(9u);
    EXPECT_EQ(generator.Below(6917529027641094201u), 6019974129744616611u);
    EXPECT_EQ(generator.Below(6917529027641094201u), 1984066369490169696u);
    EXPECT_EQ(generator.Below(6917529027641094201u), 5378614588580634523u);
    EXPECT_EQ(generator.Below(6917529027641094201u), 4953467036240007801u);
    EXPECT_EQ(generator.Below(6917529027641094201u), 6332168554818688620u);
    EXPECT_EQ(generator.Below(6917529027641094201u), 5951798043420652864u);
    EXPECT_EQ(generator.Below(6917529027641094201u), 6351935453217149200u);
    EXPECT_EQ(generator.Below(6917529027641094201u), 183921424958817512u);
  }
}

}  // namespace
}  // namespace engram
