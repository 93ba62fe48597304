// Decides whether a thread may touch memory as it is about to: all memory of a launch is known as regions, and of every
// element when it was last written and read, and by whom. Two times matter: `epoch` counts phases over all blocks,
// `Warp::time` what __syncwarp separates. Shuffles order nothing.

namespace {

Region *find(uintptr_t at) {
  static int last;
  auto hit = [at](int i) { return i < region_count && at >= regions[i].base && at < regions[i].end; };
  if (hit(last)) return &regions[last];
  int low = 0, high = global_count;
  while (low < high) {
    int middle = (low + high) / 2;
    regions[middle].end <= at ? low = middle + 1 : high = middle;
  }
  if (hit(low)) return &regions[last = low];
  for (int i = global_count; i < region_count; i++)
    if (hit(i)) return &regions[last = i];
  return 0;
}

#if defined(__ELF__)
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start, _end;
bool in_image(uintptr_t at) { return at >= (uintptr_t)&__ehdr_start && at < (uintptr_t)&_end; }
#else
bool in_image(uintptr_t at) { return at - (uintptr_t)&entry + (4 << 20) < (8 << 20); }
#endif

// The nearest region that ends before `at`, for the report.
const Region *before(uintptr_t at) {
  const Region *best = 0;
  for (int i = 0; i < region_count; i++)
    if (regions[i].base <= at && (!best || regions[i].base > best->base)) best = &regions[i];
  return best ? best : region_count ? &regions[0] : 0;
}

void read_cell(Cell *c, const Region *r, uintptr_t at, uint64_t pc, int line) {
  int warp = current / LANES, lane = current % LANES;
  uint32_t time = warps[warp].time;
  auto wrong = [=](Kind kind, int other = -1) { fail(kind, pc, line, r, at - r->base, other); };
  if (r->shared && c->wrote < block_first) wrong(UNWRITTEN);
  if (c->flags & FLYING && c->wrote >= block_first) wrong(IN_FLIGHT, c->writer);
  if (c->wrote && c->wrote < block_first) wrong(RACE_GRID);
  if (c->wrote == epoch && c->writer != current) {
    if (c->writer / LANES != warp) wrong(RACE_BLOCK, c->writer);
    if (c->wrote_time == time) wrong(RACE_WARP, c->writer);
  }
  if (c->read && c->read < block_first) c->flags |= OTHER_BLOCKS;
  if (c->read != epoch) {
    c->read = epoch, c->reader_warp = warp, c->reader_lane = lane, c->read_time = time, c->flags &= ~OTHER_WARPS;
  } else if (c->reader_warp != warp) {
    c->flags |= OTHER_WARPS;
  } else if (c->read_time != time) {
    c->reader_lane = lane, c->read_time = time;
  } else if (c->reader_lane != lane) {
    c->reader_lane = MANY;
  }
}

void write_cell(Cell *c, const Region *r, uintptr_t at, uint64_t pc, int line) {
  int warp = current / LANES, lane = current % LANES;
  uint32_t time = warps[warp].time;
  auto wrong = [=](Kind kind, int other = -1) { fail(kind, pc, line, r, at - r->base, other); };
  if (c->flags & FLYING && c->wrote >= block_first) wrong(IN_FLIGHT, c->writer);
  bool elsewhere = (c->wrote && c->wrote < block_first) || (c->read && c->read < block_first);
  if (!r->shared && (elsewhere || c->flags & OTHER_BLOCKS)) wrong(RACE_GRID);
  if (c->wrote == epoch && c->writer != current) {
    if (c->writer / LANES != warp) wrong(RACE_BLOCK, c->writer);
    if (c->wrote_time == time) wrong(RACE_WARP, c->writer);
  }
  if (c->read == epoch) {
    if (c->flags & OTHER_WARPS || c->reader_warp != warp) wrong(RACE_BLOCK, c->reader_warp * LANES);
    if (c->read_time == time && c->reader_lane != lane)
      wrong(RACE_WARP, c->reader_lane == MANY ? -1 : warp * LANES + c->reader_lane);
  }
  c->wrote = epoch, c->wrote_time = time, c->writer = current, c->flags &= ~FLYING;
}

void check(uintptr_t at, int bytes, bool write, bool aligned, uint64_t pc, int line) {
  if (current < 0 || at - (uintptr_t)(stacks + current * STRIDE) < STACK) return;
  Region *r = find(at);
  if (!r) {
    if (!write && in_image(at)) return;  // a table of constants
    const Region *near = before(at);
    fail(BOUNDS, pc, line, near, at - (near ? near->base : 0));
  }
  if (at + bytes > r->end) fail(BOUNDS, pc, line, r, at - r->base);
  if (aligned && at % bytes) fail(MISALIGNED, pc, line, r, at - r->base);
  if (write && r->read_only) fail(READ_ONLY, pc, line, r, at - r->base);
  if (counting) note(line ? 1ull << 63 | line : pc, at, bytes, r->shared, write);
  if (!write && !r->shared && r->grain == 4)
    for (int i = 0; i + 4 <= bytes; i += 4)
      if (*(const uint32_t *)(at + i) == POISON) fail(UNWRITTEN, pc, line, r, at + i - r->base);
  for (uintptr_t a = at; a < at + bytes; a += r->grain) {
    Cell *c = &r->cells[(a - r->base) / r->grain];
    write ? write_cell(c, r, a, pc, line) : read_cell(c, r, a, pc, line);
  }
}

void set_flying(char *to, int bytes, bool flying) {
  Region *r = find((uintptr_t)to);
  for (int i = 0; i < bytes; i += r->grain) {
    Cell *c = &r->cells[((uintptr_t)to + i - r->base) / r->grain];
    c->flags = flying ? c->flags | FLYING : c->flags & ~FLYING;
  }
}

}  // namespace
