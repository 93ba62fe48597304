// Counts what a launch moves: every access of a block is noted, and sorted into the requests of warps when it ends.

namespace {

struct Access { uint64_t id, at; uint32_t sequence; uint16_t thread, turn; uint8_t bytes, shared, write; };
struct Traffic { uint64_t id, requests, accesses, sectors, wavefronts; int64_t shared, write; } *traffic;
Access *trace;
size_t trace_count, trace_room, traffic_count, traffic_room;
int counting;

void note(uint64_t id, uintptr_t at, int bytes, int shared, int write) {
  if (trace_count == trace_room) trace = (Access *)realloc(trace, (trace_room = trace_room * 2 + 4096) * sizeof *trace);
  Access &a = trace[trace_count];
  a = {id, at, (uint32_t)trace_count++, (uint16_t)current, 0, (uint8_t)bytes, (uint8_t)shared, (uint8_t)write};
}

#define ORDER(field) if (a->field != b->field) return a->field < b->field ? -1 : 1;
int by_thread(const void *x, const void *y) {
  const Access *a = (const Access *)x, *b = (const Access *)y;
  ORDER(id) ORDER(thread) ORDER(sequence)
  return 0;
}
int by_request(const void *x, const void *y) {
  const Access *a = (const Access *)x, *b = (const Access *)y;
  ORDER(id) ORDER(thread / LANES) ORDER(turn) ORDER(thread)
  return 0;
}

// Wavefronts of one request: the most words of a bank asked for at once, 128 bytes of lanes after another.
int wavefronts(const Access *a, int n) {
  int sum = 0, group = a->bytes <= 4 ? LANES : 128 / a->bytes;
  for (int first = 0; first < LANES; first += group) {
    uint64_t words[LANES * 4];
    int count = 0, in_bank[32] = {}, most = 0;
    for (int i = 0; i < n; i++) {
      if (a[i].thread % LANES / group * group != first) continue;
      for (uint64_t w = a[i].at / 4; w <= (a[i].at + a[i].bytes - 1) / 4; w++) {
        int k = 0;
        while (k < count && words[k] != w) k++;
        if (k == count) words[count++] = w, most = ++in_bank[w % 32] > most ? in_bank[w % 32] : most;
      }
    }
    sum += most;
  }
  return sum;
}

int sectors(const Access *a, int n) {
  uint64_t seen[LANES * 2];
  int count = 0;
  for (int i = 0; i < n; i++)
    for (uint64_t s = a[i].at / 32; s <= (a[i].at + a[i].bytes - 1) / 32; s++) {
      int k = 0;
      while (k < count && seen[k] != s) k++;
      if (k == count) seen[count++] = s;
    }
  return count;
}

// The k-th passes of a warp's lanes over one instruction (or line) are one request.
void count_block() {
  qsort(trace, trace_count, sizeof *trace, by_thread);
  for (size_t i = 1; i < trace_count; i++)
    if (trace[i].id == trace[i - 1].id && trace[i].thread == trace[i - 1].thread) trace[i].turn = trace[i - 1].turn + 1;
  qsort(trace, trace_count, sizeof *trace, by_request);
  for (size_t i = 0, n; i < trace_count; i += n) {
    const Access *a = trace + i;
    auto same = [a](const Access &b) {
      return b.id == a->id && b.turn == a->turn && b.thread / LANES == a->thread / LANES;
    };
    for (n = 1; i + n < trace_count && same(a[n]);) n++;
    size_t row = 0;
    while (row < traffic_count && (traffic[row].id != a->id || traffic[row].shared != a->shared)) row++;
    if (row == traffic_count) {
      if (row == traffic_room) traffic_room = traffic_room * 2 + 64;
      traffic = (Traffic *)realloc(traffic, traffic_room * sizeof *traffic);
      traffic[traffic_count++] = {a->id, 0, 0, 0, 0, a->shared, a->write};
    }
    traffic[row].requests++;
    traffic[row].accesses += n;
    (a->shared ? traffic[row].wavefronts : traffic[row].sectors) += a->shared ? wavefronts(a, n) : sectors(a, n);
  }
  trace_count = 0;
}

}  // namespace
