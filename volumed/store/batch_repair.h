// Repair of a journal batch's header area from which one bit has flipped.
//
// The area's own checksum says which bit: a match is proof that the batch was once whole. The
// fields that locate an area (magic, journal UUID, version, LSN, position) and those that are zero
// are known to whoever looks for it, so an area that differs from them in more than one bit is
// another thing (the unwritten end of the journal, an older batch), and is told at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "volumed/base/uuid.h"

namespace cvol::store {

// Might the block be the first of batch `lsn` at `position`, but for one flipped bit? Cheap. Says
// yes to a whole one too.
bool nearly_batch(std::span<const std::byte> block, const Uuid& journal, uint64_t lsn,
                  uint64_t position);

// `bytes`: whole blocks from where the area begins, as many as it might have (1 to 16; what follows
// the area is not looked at). Flips the one bit back, in place, and returns the bytes of the area;
// nullopt, and nothing changed, if no single bit explains the damage.
std::optional<std::size_t> mend_batch(std::span<std::byte> bytes, const Uuid& journal, uint64_t lsn,
                                      uint64_t position);

}  // namespace cvol::store
