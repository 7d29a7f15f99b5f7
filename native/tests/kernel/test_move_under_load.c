/* SPDX-License-Identifier: Apache-2.0
 *
 * The way out and the way back together: three guest threads count words of shared pages up, an
 * evictor takes pages by MOVE into staging, copies them out and gives the memory back, two servers
 * on one descriptor answer with COPY.  A lock a page is all that servers and evictor share.  No
 * increment is lost.
 */
#include "kern_server.h"

enum { NR = 32, WRITERS = 3, EVICTIONS = 3000 };

static int guest_fd, staging_fd;
static char *guest, *staging;
static _Atomic bool must_stop;

static struct page {
	pthread_mutex_t lock; /* guards the rest */
	bool is_away;
	char content[KERN_PAGE]; /* while it is away */
} pages[NR];

struct writer {
	int idx; /* which word of each page is his */
	uint64_t counts[NR];
};

static volatile uint64_t *word_of(size_t page, int idx)
{
	return (volatile uint64_t *)(guest + page * KERN_PAGE) + idx;
}

static long count_up(void *arg)
{
	struct writer *writer = arg;
	unsigned seed = 1 + (unsigned)writer->idx;
	while (!atomic_load(&must_stop)) {
		seed = seed * 1103515245 + 12345;
		unsigned page = seed >> 16 & (NR - 1);
		volatile uint64_t *word = word_of(page, writer->idx);
		*word = *word + 1;
		writer->counts[page]++;
	}
	return 0;
}

static void answer(struct kern_server *server, const struct uffd_msg *msg)
{
	(void)server;
	CHECK_EQ(msg->event, UFFD_EVENT_PAGEFAULT);
	size_t idx = (msg->arg.pagefault.address - kern_addr(guest)) / KERN_PAGE;
	struct page *page = &pages[idx];
	char *start = guest + idx * KERN_PAGE;
	CHECK_EQ(pthread_mutex_lock(&page->lock), 0);
	if (page->is_away)
		CHECK_EQ(kern_copy(guest_fd, start, page->content, KERN_PAGE), 0);
	else /* the answer to somebody else's message brought it back */
		CHECK_EQ(kern_wake(guest_fd, start, KERN_PAGE), 0);
	page->is_away = false;
	CHECK_EQ(pthread_mutex_unlock(&page->lock), 0);
}

/* Returns whether it evicted; a page that is away or busy stays. */
static bool evict(size_t idx)
{
	struct page *page = &pages[idx];
	bool did = false;
	CHECK_EQ(pthread_mutex_lock(&page->lock), 0);
	if (!page->is_away) {
		int rc = kern_move(staging_fd, staging, guest + idx * KERN_PAGE, KERN_PAGE);
		CHECK(rc == 0 || rc == -EAGAIN || rc == -EBUSY);
		did = rc == 0;
	}
	if (did) {
		memcpy(page->content, staging, KERN_PAGE);
		CHECK_EQ(madvise(staging, KERN_PAGE, MADV_DONTNEED), 0);
		page->is_away = true;
	}
	CHECK_EQ(pthread_mutex_unlock(&page->lock), 0);
	return did;
}

static void set_up(void)
{
	guest_fd = kern_uffd(0);
	staging_fd = kern_uffd(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MOVE);
	guest = kern_anon(NR), staging = kern_anon(1);
	kern_fill(guest, NR, 0);
	CHECK_EQ(kern_register(guest_fd, guest, NR * KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	CHECK_EQ(kern_register(staging_fd, staging, KERN_PAGE, UFFDIO_REGISTER_MODE_MISSING), 0);
	for (int i = 0; i < NR; i++)
		CHECK_EQ(pthread_mutex_init(&pages[i].lock, NULL), 0);
}

int main(void)
{
	const long nr_evictions = (int)check_rounds(EVICTIONS);
	static struct writer writers[WRITERS];
	struct kern_thread threads[WRITERS];
	struct kern_server servers[2];
	set_up();
	for (int i = 0; i < 2; i++) {
		servers[i] = (struct kern_server){.uffd = guest_fd, .answer = answer};
		kern_server_start(&servers[i]);
	}
	for (int i = 0; i < WRITERS; i++) {
		writers[i].idx = i;
		kern_start(&threads[i], count_up, &writers[i]);
	}
	for (long nr_evicted = 0, i = 0; nr_evicted < nr_evictions; i++)
		nr_evicted += evict((size_t)(i % NR));
	atomic_store(&must_stop, true);
	for (int i = 0; i < WRITERS; i++)
		kern_join(&threads[i]);
	for (size_t page = 0; page < NR; page++) /* the servers bring back what is still away */
		for (int i = 0; i < WRITERS; i++)
			CHECK_EQ(*word_of(page, i), writers[i].counts[page]);
	for (int i = 0; i < 2; i++)
		kern_server_stop(&servers[i]);
	CHECK(servers[0].nr_answered + servers[1].nr_answered > (uint64_t)nr_evictions / 2);
	return 0;
}
