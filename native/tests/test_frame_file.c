/* SPDX-License-Identifier: Apache-2.0
 *
 * test_frame_file.c — frames in a file, for another program to read, and from another program.
 *
 *     test_frame_file                 writes frames to a temporary file and reads them back
 *     test_frame_file write PATH      writes frames of every kind (tests/unit/test_frames.py reads)
 *     test_frame_file read PATH       decodes every frame in PATH and checks its contents
 *
 * The file is a row of (u32 length, frame).  Pages hold what page_byte() says, so that both
 * sides know the contents without exchanging them.  Dictionaries come before their frames.
 */
#include <stdint.h>
#include <unistd.h>

#include "codec_fixture.h"

enum { NR_FRAMES = 60 };

/* Compressible, and different on each page: from the page's index in its region. */
static char page_byte(uint32_t page, unsigned i)
{
	return (char)((i % 64 < 48 ? i / 64 * 7 : i * i) + page * 13);
}

static size_t fill_pages(char *dst, const struct ts_frame_owner *owner)
{
	size_t done = 0;

	for (uint32_t bit = 0; bit < 64; bit++) {
		if (!(owner->page_bits >> bit & 1))
			continue;
		for (unsigned i = 0; i < TS_PAGE_BYTES; i++)
			dst[done + i] = page_byte(owner->base_page + bit, i);
		done += TS_PAGE_BYTES;
	}
	return done;
}

static void write_one(FILE *file, const void *bytes, int len)
{
	uint32_t len_bytes = (uint32_t)len;

	CHECK(len > 0);
	CHECK_EQ(fwrite(&len_bytes, sizeof(len_bytes), 1, file), 1);
	CHECK_EQ(fwrite(bytes, (size_t)len, 1, file), 1);
}

static void write_frames(FILE *file)
{
	size_t dict_len = train_dict(PAGE_TEXT, 1);
	struct rng rng = { 5 };

	CHECK_EQ(ts_dict_add(table, dict, dict_len, 3), 1);
	write_one(file, frame, ts_encode_dict_frame(dict, dict_len, 1, frame, sizeof(frame)));
	for (unsigned i = 0; i < NR_FRAMES; i++) {
		struct ts_codec_setting setting = settings[i % NR_SETTINGS];
		struct ts_frame_owner owner = { i, i * 100, pick_bits(&rng, i / NR_SETTINGS) };

		if (setting.codec == TS_CODEC_ZSTD && i % 2)
			setting.dict_id = 1;
		fill_pages(raw, &owner);
		write_one(file, frame, ts_encode(encoder, &setting, &owner, raw, frame,
						 sizeof(frame)));
	}
}

static void check_frame(const struct ts_frame_head *head, int len)
{
	struct ts_frame_owner owner = { head->region, head->base_page, head->page_bits };

	if (head->codec == TS_CODEC_DICT) {
		CHECK_EQ(ts_dict_add(table, back, (size_t)len, 1), head->dict_id);
		return;
	}
	CHECK_EQ(fill_pages(raw, &owner), len);
	CHECK(memcmp(raw, back, (size_t)len) == 0);
}

/* Returns how many frames there were. */
static unsigned read_frames(FILE *file)
{
	unsigned nr_frames = 0;
	uint32_t len_bytes;

	for (; fread(&len_bytes, sizeof(len_bytes), 1, file) == 1; nr_frames++) {
		struct ts_frame_head head;
		int len;

		CHECK(len_bytes <= sizeof(frame));
		CHECK_EQ(fread(frame, len_bytes, 1, file), 1);
		len = ts_decode(decoder, frame, len_bytes, &head, back, sizeof(back));
		CHECK(len > 0);
		check_frame(&head, len);
	}
	CHECK(!ferror(file));
	return nr_frames;
}

int main(int argc, char **argv)
{
	bool writes = argc == 1 || strcmp(argv[1], "write") == 0;
	bool reads = argc == 1 || strcmp(argv[1], "read") == 0;
	FILE *file = argc > 2 ? fopen(argv[2], writes ? "wb" : "rb") : tmpfile();

	CHECK(file != NULL && (reads || writes));
	if (writes) {
		set_up();
		write_frames(file);
		tear_down();
	}
	if (reads) {
		unsigned nr_frames;

		rewind(file);
		set_up();
		nr_frames = read_frames(file);
		tear_down();
		CHECK(nr_frames > (argc == 1 ? NR_FRAMES : 0));
		printf("%u frames read\n", nr_frames);
	}
	CHECK_EQ(fclose(file), 0);
	return 0;
}
