#include "volumed/io/sim/sim_file.h"

#include <algorithm>
#include <cstring>

#include "volumed/base/assert.h"

namespace cvol::io {

void SimImage::write(uint64_t offset, std::span<const std::byte> data) {
  size = std::max(size, offset + data.size());
  while (!data.empty()) {
    const uint64_t index = offset / kSimPageBytes;
    if (!holes_.empty()) holes_.erase(index);
    const uint64_t inside = offset % kSimPageBytes;
    const std::size_t part = std::min<std::size_t>(data.size(), kSimPageBytes - inside);
    std::shared_ptr<Page>& page = pages_[index];
    if (page == nullptr) {
      page = std::make_shared<Page>();
      page->fill(std::byte{0});
    } else if (page.use_count() > 1) {
      page = std::make_shared<Page>(*page);
    }
    std::memcpy(page->data() + inside, data.data(), part);
    offset += part;
    data = data.subspan(part);
  }
}

void SimImage::read(uint64_t offset, std::span<std::byte> into) const {
  while (!into.empty()) {
    const uint64_t inside = offset % kSimPageBytes;
    const std::size_t part = std::min<std::size_t>(into.size(), kSimPageBytes - inside);
    const auto found = pages_.find(offset / kSimPageBytes);
    if (found == pages_.end()) {
      std::memset(into.data(), 0, part);
    } else {
      std::memcpy(into.data(), found->second->data() + inside, part);
    }
    offset += part;
    into = into.subspan(part);
  }
}

bool SimImage::operator==(const SimImage& other) const {
  if (size != other.size || pages_.size() != other.pages_.size()) return false;
  return std::equal(pages_.begin(), pages_.end(), other.pages_.begin(),
                    [](const auto& a, const auto& b) {
                      return a.first == b.first && (a.second == b.second || *a.second == *b.second);
                    });
}

void SimImage::punch(FileRange range) {
  CVOL_ASSERT(range.begin % kSimPageBytes == 0 && range.end % kSimPageBytes == 0);
  for (uint64_t page = range.begin / kSimPageBytes; page < range.end / kSimPageBytes; ++page) {
    pages_.erase(page);
    holes_.insert(page);
  }
}

void SimImage::fill(FileRange range) {
  holes_.erase(holes_.lower_bound(range.begin / kSimPageBytes),
               holes_.lower_bound((range.end + kSimPageBytes - 1) / kSimPageBytes));
}

std::vector<FileRange> SimImage::holes(FileRange range) const {
  std::vector<FileRange> found;
  for (auto page = holes_.lower_bound(range.begin / kSimPageBytes);
       page != holes_.end() && *page * kSimPageBytes < range.end; ++page) {
    const FileRange hole{*page * kSimPageBytes, (*page + 1) * kSimPageBytes};
    if (!found.empty() && found.back().end == hole.begin) {
      found.back().end = hole.end;
    } else {
      found.push_back(hole);
    }
  }
  return found;
}

std::shared_ptr<SimWrite> SimFile::submit_write(uint64_t offset, std::vector<std::byte> data,
                                                bool durable) {
  auto write = std::make_shared<SimWrite>();
  write->number = next_number_++;
  write->offset = offset;
  write->live.assign((data.size() + kSimSectorBytes - 1) / kSimSectorBytes, true);
  write->data = std::move(data);
  write->durable_on_completion = durable;
  pending_.push_back(write);
  return write;
}

void SimFile::complete_write(const std::shared_ptr<SimWrite>& write) {
  write->completed = true;
  if (divert && !divert(&write->offset)) return forget(*write);
  if (current_.is_hole(write->offset)) ++writes_into_holes;
  current_.write(write->offset, write->data);
  durable_.size = std::max(durable_.size, current_.size);
  if (write->durable_on_completion) {
    make_durable(*write);
    forget(*write);
  } else {
    completed_.push_back({write, ++completions_});
  }
}

void SimFile::complete_sync(uint64_t ticket) {
  while (!completed_.empty() && completed_.front().ticket <= ticket) {
    const std::shared_ptr<SimWrite> write = completed_.front().write;
    completed_.erase(completed_.begin());
    make_durable(*write);
    forget(*write);
  }
}

void SimFile::make_durable(const SimWrite& write) {
  for (uint64_t sector = 0; sector < write.live.size(); ++sector) {
    if (!write.live[sector]) continue;
    const uint64_t from = sector * kSimSectorBytes;
    const uint64_t bytes = std::min<uint64_t>(kSimSectorBytes, write.data.size() - from);
    durable_.write(write.offset + from, std::span(write.data).subspan(from, bytes));
    // Older completed writes to these bytes can no longer come back.
    for (const auto& older : pending_) {
      if (older.get() == &write || !older->completed || older->number > write.number) continue;
      const uint64_t at = write.offset + from;
      if (at < older->offset || at >= older->offset + older->data.size()) continue;
      older->live[(at - older->offset) / kSimSectorBytes] = false;
    }
  }
}

void SimFile::forget(const SimWrite& write) {
  std::erase_if(pending_, [&](const auto& other) { return other.get() == &write; });
}

void SimFile::resize(uint64_t bytes) {
  current_.size = bytes;
  durable_.size = bytes;
}

// What was written there before is gone for good, also if it had not become durable yet.
void SimFile::punch(FileRange range) {
  for (const auto& write : pending_) {
    if (!write->completed) continue;
    for (uint64_t sector = 0; sector < write->live.size(); ++sector) {
      const uint64_t at = write->offset + sector * kSimSectorBytes;
      if (at >= range.begin && at < range.end) write->live[sector] = false;
    }
  }
  current_.punch(range);
  durable_.punch(range);
}

void SimFile::fill(FileRange range) {
  current_.fill(range);
  durable_.fill(range);
}

SimImage SimFile::crash_image(
    const std::function<bool(const SimWrite& write, uint64_t sector)>& keep) const {
  SimImage image = durable_;
  for (const auto& write : pending_) {
    for (uint64_t sector = 0; sector < write->live.size(); ++sector) {
      if (!write->live[sector] || !keep(*write, sector)) continue;
      const uint64_t from = sector * kSimSectorBytes;
      const uint64_t bytes = std::min<uint64_t>(kSimSectorBytes, write->data.size() - from);
      image.write(write->offset + from, std::span(write->data).subspan(from, bytes));
    }
  }
  image.size = std::max(durable_.size, image.size);
  return image;
}

void SimFile::damage(uint64_t offset) {
  for (SimImage* image : {&durable_, &current_}) {
    std::byte byte;
    image->read(offset, {&byte, 1});
    byte ^= std::byte{4};
    image->write(offset, {&byte, 1});
  }
}

void SimFile::reset(SimImage image) {
  durable_ = image;
  current_ = std::move(image);
  pending_.clear();
  completed_.clear();
  locked = false;
}

}  // namespace cvol::io
