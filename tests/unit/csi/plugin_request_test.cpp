#include "csi/plugin_request.h"

#include <gtest/gtest.h>

#include "volumed/base/units.h"

namespace cvol::csi {
namespace {

TEST(PluginRequest, WhatDockerdSendsIsUnderstood) {
  auto create =
      parse_plugin_request("{\"Name\":\"v1\",\"Opts\":{\"fs\":\"xfs\",\"size\":\"1G\"}}\n");
  ASSERT_TRUE(create.is_ok());
  EXPECT_EQ(create->name, "v1");
  EXPECT_EQ(create->options.at("fs"), "xfs");
  EXPECT_TRUE(parse_plugin_request("{\"Name\":\"v1\",\"Opts\":null}\n")->options.empty());
  EXPECT_EQ(parse_plugin_request("{\"Name\":\"v1\",\"ID\":\"abc\"}\n")->id, "abc");
  EXPECT_TRUE(parse_plugin_request("").is_ok());
  EXPECT_TRUE(parse_plugin_request("{}\n").is_ok());
}

TEST(PluginRequest, MalformedBodiesAreRefused) {
  for (const char* body :
       {"{", "[]", "null", "7", "\"x\"", "{\"Name\":7}", "{\"ID\":[]}", "{\"Opts\":[]}",
        "{\"Opts\":{\"size\":1}}", "{\"Name\":\"v\"} {}", "{\"Name\":\"\xff\"}"}) {
    EXPECT_EQ(parse_plugin_request(body).code(), Code::kInvalidArgument) << body;
  }
}

TEST(PluginRequest, BoundsHold) {
  std::string deep = "{\"x\":" + std::string(200'000, '[') + std::string(200'000, ']') + "}";
  (void)parse_plugin_request(deep);
  EXPECT_FALSE(parse_plugin_request(std::string(kMaxPluginBody + 1, ' ')).is_ok());
  EXPECT_FALSE(parse_plugin_request("{\"Name\":\"" + std::string(2000, 'a') + "\"}").is_ok());
  std::string many = "{\"Opts\":{\"o\":\"\"";
  for (int i = 0; i < 100; ++i) many += ",\"o" + std::to_string(i) + "\":\"\"";
  EXPECT_FALSE(parse_plugin_request(many + "}}").is_ok());
}

TEST(CreateOptions, Defaults) {
  auto options = parse_create_options({});
  ASSERT_TRUE(options.is_ok());
  EXPECT_EQ(options->size_bytes, 10 * kGiB);
  EXPECT_EQ(options->file_system, "ext4");
  EXPECT_EQ(options->replicas, 1u);
}

TEST(CreateOptions, ValuesAreChecked) {
  EXPECT_EQ(parse_create_options({{"size", "512MiB"}})->size_bytes, 512 * kMiB);
  EXPECT_EQ(parse_create_options({{"replicas", "2"}})->replicas, 2u);
  EXPECT_EQ(parse_create_options({{"replicas", "8"}})->replicas, 8u);
  EXPECT_FALSE(parse_create_options({{"replicas", "9"}}).is_ok());
  EXPECT_EQ(parse_create_options({{"size", "10GB"}})->size_bytes, 10'000'003'072u);
  for (auto [key, value] :
       {std::pair("size", "much"), std::pair("size", "1"), std::pair("size", ""),
        std::pair("fs", "btrfs"), std::pair("replicas", "0"), std::pair("replicas", "2x"),
        std::pair("replicas", "-1"), std::pair("replicas", "99999999999")}) {
    EXPECT_EQ(parse_create_options({{key, value}}).code(), Code::kInvalidArgument) << value;
  }
}

TEST(CreateOptions, UnknownOptionsAreRefusedByName) {
  auto unknown = parse_create_options({{"colour", "red"}});
  EXPECT_EQ(unknown.code(), Code::kInvalidArgument);
  EXPECT_NE(unknown.message().find("colour"), std::string::npos);
  auto from = parse_create_options({{"from", "snap1"}});
  EXPECT_NE(from.message().find("snapshot"), std::string::npos);
}

}  // namespace
}  // namespace cvol::csi
