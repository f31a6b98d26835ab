//go:build ignore

/*
 * berth-init is process 1 of a pod that shares a PID namespace. It adopts and
 * reaps what the pod's containers leave, and ends on SIGTERM or SIGINT; the
 * kernel then ends the namespace. See doc.go.
 *
 * It needs no libc, so that it is a few kilobytes that nothing maps twice.
 */

#include <asm/unistd.h>
#include <linux/signal.h>

static long call(long nr, long a, long b, long c, long d)
{
#if defined(__x86_64__)
	long ret;
	register long r10 __asm__("r10") = d;

	__asm__ volatile("syscall" : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc 0" : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3)
			 : "memory");
	return x0;
#else
#error "berth-init: the system call convention of this machine is missing"
#endif
}

#define BIT(sig) (1UL << ((sig) - 1))
#define WAIT_ANY (-1)
#define NO_HANG 1 /* WNOHANG */

__attribute__((noreturn, used)) void berth_init(void)
{
	/* Blocked signals are kept until they are waited for: none is lost
	 * between looking for children and sleeping. */
	unsigned long set = BIT(SIGTERM) | BIT(SIGINT) | BIT(SIGCHLD);

	call(__NR_rt_sigprocmask, SIG_BLOCK, (long)&set, 0, sizeof(set));
	for (;;) {
		long sig;

		while (call(__NR_wait4, WAIT_ANY, 0, NO_HANG, 0) > 0)
			;
		sig = call(__NR_rt_sigtimedwait, (long)&set, 0, 0, sizeof(set));
		if (sig == SIGTERM || sig == SIGINT)
			call(__NR_exit_group, 0, 0, 0, 0);
	}
}

/* The kernel enters with an aligned stack and no return address. */
__asm__(".globl _start\n"
	".type _start, %function\n"
	"_start:\n"
#if defined(__x86_64__)
	"	xor %ebp, %ebp\n"
	"	call berth_init\n"
#else
	"	bl berth_init\n"
#endif
);
