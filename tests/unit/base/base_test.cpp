#include <gtest/gtest.h>

#include <vector>

#include "volumed/base/buffer_pool.h"
#include "volumed/base/checksum.h"
#include "volumed/base/units.h"
#include "volumed/base/uuid.h"

namespace cvol {
namespace {

TEST(Units, sizes_are_read_as_people_write_them) {
  EXPECT_EQ(*parse_size("10GiB"), 10 * kGiB);
  EXPECT_EQ(*parse_size("10G"), 10 * kGiB);
  EXPECT_EQ(*parse_size("512mib"), 512 * kMiB);
  EXPECT_EQ(*parse_size("1.5T"), kTiB + kTiB / 2);
  EXPECT_EQ(*parse_size("4096"), 4096u);
  EXPECT_EQ(*parse_size("1PiB"), kPiB);
}

TEST(Units, decimal_units_are_decimal) {
  EXPECT_EQ(*parse_size("10GB"), 10'000'000'000u);
  EXPECT_EQ(*parse_size("1.5kB"), 1500u);
  EXPECT_EQ(*parse_size("1PB"), 1'000'000'000'000'000u);
}

TEST(Units, sizes_of_volumes_are_rounded_up_to_blocks) {
  EXPECT_EQ(*parse_volume_size("10GiB"), 10 * kGiB);
  EXPECT_EQ(*parse_volume_size("10GB"), 10'000'003'072u);
  EXPECT_EQ(*parse_volume_size("10.3GiB") % kBlockBytes, 0u);
  EXPECT_GE(*parse_volume_size("10.3GiB"), *parse_size("10.3GiB"));
  EXPECT_EQ(*parse_volume_size("0"), 0u);
  EXPECT_FALSE(parse_volume_size("18446744073709551615"));
  EXPECT_EQ(format_exact_size(10 * kGiB), "10GiB");
  EXPECT_EQ(format_exact_size(10'000'003'072), "9.3GiB (10000003072 bytes)");
}

TEST(Units, new_volumes_have_names_of_two_characters) {
  EXPECT_TRUE(validate_new_volume_name("pg"));
  for (const char* name : {"", "m", "-x"}) EXPECT_FALSE(validate_new_volume_name(name)) << name;
  EXPECT_NE(validate_new_volume_name("m").message().find("two"), std::string::npos);
}

TEST(Units, bad_sizes_are_refused_with_an_example) {
  for (const char* text : {"", "G", "-1", "10X", "1.5", "1..5G", "99999999999999999999", "20000P",
                           "10 GG", "0x10", "1e3"}) {
    Result<uint64_t> size = parse_size(text);
    EXPECT_FALSE(size) << text;
    EXPECT_NE(size.message().find("10GiB"), std::string::npos);
  }
}

TEST(Units, sizes_are_printed_short_and_exact) {
  EXPECT_EQ(format_size(10 * kGiB), "10GiB");
  EXPECT_EQ(format_size(kGiB + kGiB / 2), "1.5GiB");
  EXPECT_EQ(format_size(100), "100B");
}

TEST(Units, names_are_validated_at_the_border) {
  EXPECT_TRUE(validate_name("pg-data_1.x", "volume"));
  EXPECT_TRUE(validate_name(std::string(128, 'a'), "volume"));
  for (const std::string& name :
       {std::string(""), std::string(129, 'a'), std::string("-a"), std::string("../x"),
        std::string("a/b"), std::string("a b"), std::string("a\n"), std::string("\xc3\xa4")}) {
    EXPECT_FALSE(validate_name(name, "volume")) << name;
  }
}

TEST(Uuid, is_ordered_by_its_bytes) {
  for (std::size_t at = 0; at < 16; ++at) {
    Uuid low, high;
    low.bytes.fill(0x80);
    high.bytes.fill(0x80);
    high.bytes[at] = 0x81;
    // What follows does not count.
    for (std::size_t i = at + 1; i < 16; ++i) low.bytes[i] = 0xff;
    EXPECT_LT(low, high) << at;
    EXPECT_NE(low, high) << at;
    EXPECT_EQ(low.bytes < high.bytes, low < high);
  }
  EXPECT_EQ(Uuid{}, Uuid{});
}

TEST(Uuid, text_form_round_trips) {
  Random random(7);
  const Uuid uuid = Uuid::make(random);
  Result<Uuid> again = Uuid::parse(uuid.to_string());
  ASSERT_TRUE(again);
  EXPECT_EQ(*again, uuid);
  EXPECT_FALSE(Uuid::parse("nonsense"));
  EXPECT_FALSE(Uuid::parse(uuid.to_string() + "0"));
}

TEST(Checksum, depends_on_volume_and_block) {
  std::vector<std::byte> block(kBlockBytes, std::byte{5});
  Random random(1);
  const uint64_t a = checksum_salt(Uuid::make(random));
  const uint64_t b = checksum_salt(Uuid::make(random));
  EXPECT_NE(block_checksum(a, 1, block.data()), block_checksum(a, 2, block.data()));
  EXPECT_NE(block_checksum(a, 1, block.data()), block_checksum(b, 1, block.data()));
  EXPECT_EQ(block_checksum(a, 1, block.data()), block_checksum(a, 1, block.data()));
}

TEST(BufferPool, holds_to_its_bound_but_serves_one_large_request) {
  BufferPool pool(kMiB, kMiB);
  Buffer large = pool.try_take(8 * kMiB);
  EXPECT_FALSE(large.empty());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large.data()) % kBlockBytes, 0u);
  EXPECT_TRUE(pool.try_take(4096).empty());
  large.reset();
  EXPECT_FALSE(pool.try_take(4096).empty());
  EXPECT_EQ(pool.used_bytes(), 0u);
}

TEST(Units, rates_and_durations) {
  EXPECT_EQ(*parse_rate("64MiB/s"), 64 * kMiB);
  EXPECT_EQ(*parse_rate("1G"), kGiB);
  for (const char* text : {"", "/s", "fast", "1KiB/s", "65TiB/s", "64MiB/h", "-1"})
    EXPECT_EQ(parse_rate(text).code(), Code::kInvalidArgument) << text;
  EXPECT_EQ(*parse_duration("14d"), 14u * 86400);
  EXPECT_EQ(*parse_duration("36h"), 36u * 3600);
  EXPECT_EQ(*parse_duration("90min"), 5400u);
  EXPECT_EQ(*parse_duration("0"), 0u);
  for (const char* text : {"", "d", "14", "14 d", "1w", "99999999999d", "-1d"})
    EXPECT_EQ(parse_duration(text).code(), Code::kInvalidArgument) << text;
}

}  // namespace
}  // namespace cvol
