//go:build ignore

// The line above is for the go command, which refuses C files without cgo.
// The first process of a pod whose containers share a PID namespace. It reaps
// what the containers leave behind and otherwise sleeps. It runs from an empty
// read-only root, as nobody, without capabilities; so it opens, allocates and
// writes nothing. When it ends, the kernel ends every process of the
// namespace: its death is the pod's.

#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	sigset_t awaited;
	siginfo_t info;

	// Blocked signals wait until sigwaitinfo takes them: none is lost
	// between a reaping and the next wait. Process 1 ignores every signal
	// that it has no handler for, so these are the only ones it ever sees.
	sigemptyset(&awaited);
	sigaddset(&awaited, SIGCHLD);
	sigaddset(&awaited, SIGTERM);
	sigaddset(&awaited, SIGINT);
	if (sigprocmask(SIG_BLOCK, &awaited, NULL) != 0)
		return 1;

	for (;;) {
		// Several children may stand behind one SIGCHLD.
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		int sig = sigwaitinfo(&awaited, &info);
		if (sig == SIGTERM || sig == SIGINT)
			return 0;
	}
}
