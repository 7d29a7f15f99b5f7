/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_codec.c — what a frame costs beside the bare library calls.
 *
 *     bench_codec [MiB of the machine's shared libraries] [rounds]
 *
 * For each codec and frame size: nanoseconds a 4 KiB page to encode and decode, by ts_encode and
 * ts_decode and by lz4 or zstd alone on the same pages.  The two take turns on small batches and
 * each batch counts with its fastest round, so that other load on the machine mostly cancels.
 */
#include <dirent.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zstd.h>

#include "codec/codec.h"
#include "util/base.h"
#include "util/limits.h"

enum { BATCH_BYTES = 1 << 20, CAP_BYTES = 2 * TS_FRAME_RAW_MAX, BATCH_FRAMES_MAX = 256 };

/* The machine's shared libraries, page by page, without filled pages. */
static size_t load_pages(const char *folder, char *dst, size_t cap_bytes)
{
	DIR *dir = opendir(folder);
	size_t len_bytes = 0;
	struct dirent *entry;

	while (dir && (entry = readdir(dir)) != NULL && len_bytes < cap_bytes) {
		char path[512];
		struct stat info;
		FILE *file;
		uint64_t value;

		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		if (!strstr(entry->d_name, ".so") || lstat(path, &info) || !S_ISREG(info.st_mode))
			continue;
		file = fopen(path, "rb");
		while (file && len_bytes < cap_bytes &&
		       fread(dst + len_bytes, TS_PAGE_BYTES, 1, file) == 1)
			len_bytes += ts_page_is_filled(dst + len_bytes, &value) ? 0 : TS_PAGE_BYTES;
		if (file)
			fclose(file);
	}
	if (dir)
		closedir(dir);
	return len_bytes / BATCH_BYTES * BATCH_BYTES;
}

struct bench {
	struct ts_encoder *encoder;
	struct ts_decoder *decoder;
	ZSTD_CCtx *bare_encoder;
	ZSTD_DCtx *bare_decoder;
	struct ts_codec_setting setting;
	size_t frame_bytes;
	char *frames, *bare, *raw;
	int frame_lens[BATCH_FRAMES_MAX], bare_lens[BATCH_FRAMES_MAX];
};

static void encode_ours(struct bench *bench, const char *pages)
{
	struct ts_frame_owner owner = { 1, 0, ~0ull >> (64 - bench->frame_bytes / TS_PAGE_BYTES) };

	for (size_t i = 0; i < BATCH_BYTES / bench->frame_bytes; i++)
		bench->frame_lens[i] =
			ts_encode(bench->encoder, &bench->setting, &owner,
				  pages + i * bench->frame_bytes, bench->frames + i * CAP_BYTES,
				  CAP_BYTES);
}

static void encode_bare(struct bench *bench, const char *pages)
{
	for (size_t i = 0; i < BATCH_BYTES / bench->frame_bytes; i++) {
		const char *src = pages + i * bench->frame_bytes;
		char *dst = bench->bare + i * CAP_BYTES;

		bench->bare_lens[i] =
			bench->setting.codec == TS_CODEC_LZ4
				? LZ4_compress_fast(src, dst, (int)bench->frame_bytes, CAP_BYTES, 1)
				: (int)ZSTD_compress2(bench->bare_encoder, dst, CAP_BYTES, src,
						      bench->frame_bytes);
	}
}

static void decode_ours(struct bench *bench, const char *pages)
{
	struct ts_frame_head head;

	(void)pages;
	for (size_t i = 0; i < BATCH_BYTES / bench->frame_bytes; i++)
		if (ts_decode(bench->decoder, bench->frames + i * CAP_BYTES,
			      (size_t)bench->frame_lens[i], &head, bench->raw,
			      bench->frame_bytes) != (int)bench->frame_bytes)
			abort();
}

static void decode_bare(struct bench *bench, const char *pages)
{
	(void)pages;
	for (size_t i = 0; i < BATCH_BYTES / bench->frame_bytes; i++) {
		const char *src = bench->bare + i * CAP_BYTES;
		int len = bench->setting.codec == TS_CODEC_LZ4
				  ? LZ4_decompress_safe(src, bench->raw, bench->bare_lens[i],
							(int)bench->frame_bytes)
				  : (int)ZSTD_decompressDCtx(bench->bare_decoder, bench->raw,
							     bench->frame_bytes, src,
							     (size_t)bench->bare_lens[i]);
		if (len != (int)bench->frame_bytes)
			abort();
	}
}

typedef void (*step_fn)(struct bench *bench, const char *pages);

static void keep_fastest(struct bench *bench, step_fn step, const char *pages, uint64_t *best_ns)
{
	ts_mono_ns start = ts_now_ns();
	uint64_t took_ns;

	step(bench, pages);
	took_ns = ts_now_ns() - start;
	*best_ns = TS_MIN(*best_ns, took_ns);
}

static void run(struct bench *bench, const char *label, const char *pages, size_t len_bytes,
		unsigned nr_rounds)
{
	/* Each decodes what it has just encoded, so that both find it equally warm. */
	static const step_fn steps[4] = { encode_ours, decode_ours, encode_bare, decode_bare };
	double total_ns[4] = { 0 }, nr_pages = (double)(len_bytes / TS_PAGE_BYTES);
	uint64_t stored = 0;

	ZSTD_CCtx_setParameter(bench->bare_encoder, ZSTD_c_compressionLevel, bench->setting.level);
	for (size_t off = 0; off < len_bytes; off += BATCH_BYTES) {
		uint64_t best_ns[4] = { ~0ull, ~0ull, ~0ull, ~0ull };

		for (unsigned round = 0; round < nr_rounds; round++)
			for (unsigned s = 0; s < 4; s++)
				keep_fastest(bench, steps[s], pages + off, &best_ns[s]);
		for (unsigned s = 0; s < 4; s++)
			total_ns[s] += (double)best_ns[s];
		for (size_t i = 0; i < BATCH_BYTES / bench->frame_bytes; i++)
			stored += (uint64_t)bench->frame_lens[i];
	}
	printf("%-7s %3zu KiB  encode %6.0f ns/page (bare %6.0f, %+5.1f %%)  decode %5.0f "
	       "(bare %5.0f, %+5.1f %%)  ratio %.2f\n",
	       label, bench->frame_bytes / 1024, total_ns[0] / nr_pages, total_ns[2] / nr_pages,
	       (total_ns[0] / total_ns[2] - 1) * 100, total_ns[1] / nr_pages,
	       total_ns[3] / nr_pages, (total_ns[1] / total_ns[3] - 1) * 100,
	       (double)len_bytes / (double)stored);
}

int main(int argc, char **argv)
{
	size_t cap_bytes = (size_t)(argc > 1 ? strtoul(argv[1], NULL, 0) : 8) << 20;
	unsigned nr_rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 5;
	char *pages = aligned_alloc(TS_PAGE_BYTES, cap_bytes);
	size_t len_bytes = load_pages("/usr/lib/x86_64-linux-gnu", pages, cap_bytes);
	struct bench bench = { 0 };
	static const struct {
		const char *label;
		struct ts_codec_setting setting;
	} cases[] = { { "lz4", { TS_CODEC_LZ4, 1, 0 } },
		      { "zstd:1", { TS_CODEC_ZSTD, 1, 0 } },
		      { "zstd:3", { TS_CODEC_ZSTD, 3, 0 } } };

	if (len_bytes == 0)
		return 77;
	bench.bare_encoder = ZSTD_createCCtx();
	bench.bare_decoder = ZSTD_createDCtx();
	bench.frames = malloc((size_t)BATCH_FRAMES_MAX * CAP_BYTES);
	bench.bare = malloc((size_t)BATCH_FRAMES_MAX * CAP_BYTES);
	bench.raw = aligned_alloc(TS_PAGE_BYTES, TS_FRAME_RAW_MAX);
	if (ts_encoder_create(NULL, &bench.encoder) || ts_decoder_create(NULL, &bench.decoder))
		return 1;
	for (unsigned c = 0; c < TS_ARRAY_LEN(cases); c++)
		for (size_t frame_bytes = 4096; frame_bytes <= 65536; frame_bytes *= 4) {
			bench.setting = cases[c].setting;
			bench.frame_bytes = frame_bytes;
			run(&bench, cases[c].label, pages, len_bytes, nr_rounds);
		}
	ts_decoder_destroy(bench.decoder);
	ts_encoder_destroy(bench.encoder);
	ZSTD_freeCCtx(bench.bare_encoder);
	ZSTD_freeDCtx(bench.bare_decoder);
	free(bench.raw);
	free(bench.bare);
	free(bench.frames);
	free(pages);
	return 0;
}
