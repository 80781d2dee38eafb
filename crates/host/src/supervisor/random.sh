# How a system that goes on from what is kept of a memory has random numbers that nobody else has, and it itself has not had: others may go on from there,
# too, and it itself may have done so before.

# A Linux program for x86-64 that has the kernel draw its random numbers from now on from what /dev/urandom, its standard input, has been told (random(4),
# RNDRESEEDCRNG), and ends with the error's number, 0 if there is none: no shell can do that. It is the ELF header, the program header, and
#   mov eax, 16; xor edi, edi; mov esi, 0x5207; syscall; neg eax; xchg edi, eax; mov eax, 60; syscall
reseed="\177\105\114\106\002\001\001\000\000\000\000\000\000\000\000\000\002\000\076\000\001\000\000\000\170\000\100\000\000\000\000\000\
\100\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\100\000\070\000\001\000\000\000\000\000\000\000\
\001\000\000\000\005\000\000\000\000\000\000\000\000\000\000\000\000\000\100\000\000\000\000\000\000\000\100\000\
\000\000\000\000\220\000\000\000\000\000\000\000\220\000\000\000\000\000\000\000\000\020\000\000\000\000\000\000\
\270\020\000\000\000\061\377\276\007\122\000\000\017\005\367\330\227\270\074\000\000\000\017\005"

# Whether that has been done, or need not be, if doing it has ended so: a kernel that has drawn none yet has all of it before it does (ENODATA), and one
# that knows no such order has it at once (EINVAL, before 4.14).
is_reseeded() {
    case $1 in 0 | 22 | 61) return 0 ;; esac
    return 1
}

# Does it with a program that is put there, where programs may be: which folder that is is not known before. It is faster than Perl by far. Nothing is
# written to a file that has been there, or through a link.
reseed_by_own_program() {
    for folder in /dev /run /dev/shm /tmp; do
        file=$folder/.reseed-$$
        if (set -C && printf "$reseed" >"$file") 2>/dev/null; then
            ended=1
            if chmod 700 "$file"; then "$file" </dev/urandom 2>/dev/null; ended=$?; fi
            rm -f "$file"
            if is_reseeded $ended; then return 0; fi
        fi
    done
    return 1
}

reseed_by() {
    "$@" </dev/urandom 2>/dev/null
    is_reseeded $?
}

# A kernel with a driver for its generation id seeds its random numbers anew when that changes.
kernel_does_so() {
    for device in /sys/bus/*/drivers/vmgenid/*:*; do
        if [ -e "$device" ]; then return 0; fi
    done
    return 1
}

# Has random numbers come of $1, which nobody else knows, at once: what is written to /dev/urandom counts up to a minute later.
own_random_numbers() {
    printf '%s' "$1" >/dev/urandom
    kernel_does_so || reseed_by_own_program ||
        reseed_by perl -e 'ioctl(STDIN, 0x5207, 0) or exit $!' ||
        reseed_by python3 -c 'import fcntl, sys
try: fcntl.ioctl(0, 0x5207)
except OSError as error: sys.exit(error.errno)' || {
        echo "cannot have random numbers of its own: no program may be put into /dev, /run, /dev/shm or /tmp, and neither perl nor python3 can do it" >&2
        status=1
    }
}
