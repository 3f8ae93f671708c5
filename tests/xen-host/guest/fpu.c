/* SPDX-License-Identifier: MIT OR Apache-2.0
 * fpu NAME: holds known values in xmm0 to xmm15, MXCSR, the x87 control word and the base of FS, spins, and reports when
 * they changed. An emulated machine that loses them would make good guests look bad, and the other way round. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct state {
	uint64_t fs;
	uint32_t mxcsr;
	uint16_t control;
};

static struct state state(void)
{
	struct state s;
	memset(&s, 0, sizeof s);
	asm volatile("mov %%fs:0, %0" : "=r"(s.fs));
	asm volatile("stmxcsr %0" : "=m"(s.mxcsr));
	asm volatile("fnstcw %0" : "=m"(s.control));
	return s;
}

#define EACH(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)
#define LOAD(i) "movdqa " #i "*16(%1), %%xmm" #i "\n"
#define STORE(i) "movdqa %%xmm" #i ", " #i "*16(%2)\n"

static void spin(const uint64_t *in, uint64_t *out)
{
	uint64_t turns = 200000;
	asm volatile(EACH(LOAD) "1: dec %0\n jnz 1b\n" EACH(STORE)
		     : "+r"(turns)
		     : "r"(in), "r"(out)
		     : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
		       "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "?";
	uint64_t in[32] __attribute__((aligned(16))), out[32] __attribute__((aligned(16))), bad = 0, turns = 0;
	struct state first = state();
	time_t reported = time(0);
	for (;;) {
		turns++;
		for (int i = 0; i < 32; i++)
			in[i] = (turns << 8 | i) * 0x9e3779b97f4a7c15u;
		spin(in, out);
		struct state now = state();
		if (memcmp(in, out, sizeof in) || memcmp(&first, &now, sizeof now))
			if (++bad < 10)
				printf("FPU BAD %s\n", name), fflush(stdout);
		usleep(20000); /* little load, because the cases measure */
		if (time(0) - reported >= 5) {
			reported = time(0);
			printf("FPU ok %s turns %llu bad %llu\n", name, (unsigned long long)turns, (unsigned long long)bad);
			fflush(stdout);
		}
	}
}
