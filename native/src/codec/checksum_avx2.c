/* SPDX-License-Identifier: Apache-2.0
 *
 * checksum_avx2.c — checksum.c once more, compiled for CPUs with AVX2 whatever the rest of the
 * library is compiled for.  Nothing here runs unless checksum.c has asked the CPU.
 */
#if defined(__x86_64__)
#pragma GCC target("avx2")
#define XXH_VECTOR 2 /* XXH_AVX2; the header would go by -mavx2 */
#endif
#define TS_CHECKSUM_AVX2
#include "codec/checksum.c"
