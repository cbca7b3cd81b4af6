/* Preloaded into a program (LD_PRELOAD), hides AVX-512, VNNI, AVX-VNNI, AVX10 and AMX from it.

   arch_prctl(ARCH_SET_CPUID, 0) has each `cpuid` of a thread, and of threads and processes that it starts, end in a
   SIGSEGV. The handler asks the processor itself, and answers without the bits of what is to be hidden. A new program
   begins without this, and is then preloaded in its turn.

   A program that handles SIGSEGV itself (faulthandler) is asked to when there is a real one: its handler is only noted.
   All else that may be called within a handler is that of the kernel. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { ARCH_SET_CPUID = 0x1012 }; /* asm/prctl.h, which not every machine has */
#define BIT(n) (1u << (n))

typedef int (*Sigaction)(int, const struct sigaction *, struct sigaction *);
typedef int (*Sigmask)(int, const sigset_t *, sigset_t *);
static struct sigaction theirs; /* what the program wants for SIGSEGV; at first SIG_DFL */

static int allow_cpuid(unsigned long yes) { return (int)syscall(SYS_arch_prctl, ARCH_SET_CPUID, yes); }

static int kernels(int number, const struct sigaction *wanted, struct sigaction *before) {
  static Sigaction found;
  if (!found) found = (Sigaction)dlsym(RTLD_NEXT, "sigaction");
  return found(number, wanted, before);
}

/* Intel's manual, volume 2A, CPUID: leaf 7 */
static void hide(unsigned leaf, unsigned sub, unsigned *a, unsigned *b, unsigned *c, unsigned *d) {
  if (leaf != 7) return;
  if (sub == 0) { /* AVX-512: F DQ IFMA PF ER CD BW VL; VBMI VBMI2 VNNI BITALG VPOPCNTDQ; 4VNNIW 4FMAPS VP2INTERSECT FP16 */
    *b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
    *c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
    *d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(23));
    *d &= ~(BIT(22) | BIT(24) | BIT(25)); /* AMX: BF16 TILE INT8 */
  } else if (sub == 1) {
    *a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));          /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA */
    *d &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19)); /* VNNI-INT8, NE-CONVERT, AMX-COMPLEX, VNNI-INT16, AVX10 */
  }
}

static void pass_on(int number, siginfo_t *info, void *context) {
  if (theirs.sa_flags & SA_SIGINFO) {
    theirs.sa_sigaction(number, info, context);
  } else if (theirs.sa_handler == SIG_IGN && info->si_code <= 0) {
    return; /* sent by a process; of a fault the kernel ignores nothing */
  } else if (theirs.sa_handler == SIG_DFL || theirs.sa_handler == SIG_IGN) {
    struct sigaction end = {.sa_handler = SIG_DFL};
    kernels(number, &end, NULL);
    raise(number);
  } else {
    theirs.sa_handler(number);
  }
}

static void answer(int number, siginfo_t *info, void *context) {
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *at = (const unsigned char *)r[REG_RIP];
  int kept = errno;
  if (info->si_code != SI_KERNEL || at[0] != 0x0f || at[1] != 0xa2) { /* not the instruction `cpuid` */
    pass_on(number, info, context);
    return;
  }
  unsigned leaf = (unsigned)r[REG_RAX], sub = (unsigned)r[REG_RCX], a, b, c, d;
  allow_cpuid(1);
  __cpuid_count(leaf, sub, a, b, c, d);
  allow_cpuid(0);
  hide(leaf, sub, &a, &b, &c, &d);
  r[REG_RAX] = a;
  r[REG_RBX] = b;
  r[REG_RCX] = c;
  r[REG_RDX] = d;
  r[REG_RIP] += 2;
  errno = kept;
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction ours = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  kernels(SIGSEGV, &ours, &theirs);
  if (allow_cpuid(0)) {
    fputs("older_cpu: this processor cannot hide what it is able to (CPUID faulting)\n", stderr);
    _exit(69); /* EX_UNAVAILABLE of sysexits.h */
  }
}

/* In the place of libc's: SIGSEGV stays ours, and is never blocked, for a `cpuid` would then end the program. */

int sigaction(int number, const struct sigaction *wanted, struct sigaction *before) {
  if (number != SIGSEGV) return kernels(number, wanted, before);
  struct sigaction now = theirs;
  if (wanted) theirs = *wanted;
  if (before) *before = now;
  return 0;
}

sighandler_t signal(int number, sighandler_t handler) {
  struct sigaction wanted = {.sa_handler = handler, .sa_flags = SA_RESTART}, before;
  return sigaction(number, &wanted, &before) ? SIG_ERR : before.sa_handler;
}

static int mask(const char *name, int how, const sigset_t *set, sigset_t *before) {
  Sigmask found = (Sigmask)dlsym(RTLD_NEXT, name);
  if (!set || how == SIG_UNBLOCK) return found(how, set, before);
  sigset_t without = *set;
  sigdelset(&without, SIGSEGV);
  return found(how, &without, before);
}

int sigprocmask(int how, const sigset_t *set, sigset_t *before) { return mask("sigprocmask", how, set, before); }
int pthread_sigmask(int how, const sigset_t *set, sigset_t *before) { return mask("pthread_sigmask", how, set, before); }
