# How a system that goes on from what is kept of a memory has random numbers that nobody else has, and it itself has not had: others may go on from there,
# too, and it itself may have done so before.

# A Linux program for x86-64 that removes itself, has the kernel draw its random numbers from now on from what /dev/urandom, its standard input, has been
# told (random(4), RNDRESEEDCRNG), and ends with the error's number, 0 if there is none: no shell can do that.
zeros='\0\0\0\0\0\0\0'
# elf(5): e_ident; e_type, e_machine, e_version; e_entry, e_phoff, e_shoff; e_flags, e_ehsize, e_phentsize; e_phnum, and no sections.
reseed="\177ELF\2\1\1\0\0$zeros\2\0>\0\1\0\0\0x\0@\0\0\0\0\0@$zeros\0$zeros\0\0\0\0@\0\70\0\1$zeros"
# p_type, p_flags, p_offset; p_vaddr, p_paddr; p_filesz, p_memsz, p_align.
reseed="$reseed\1\0\0\0\5\0\0\0\0$zeros\0\0@\0\0\0\0\0\0$zeros\234$zeros\234$zeros\0\20\0\0\0\0\0\0"
# mov eax, 87 (unlink); mov rdi, [rsp + 8]; syscall
reseed="$reseed\270\127\0\0\0\110\213\174\44\10\17\5"
# mov eax, 16 (ioctl); xor edi, edi; mov esi, 0x5207; syscall
reseed="$reseed\270\20\0\0\0\61\377\276\7\122\0\0\17\5"
# neg eax; xchg edi, eax; mov eax, 60 (exit); syscall
reseed="$reseed\367\330\227\270\74\0\0\0\17\5"

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
        set -C
        { printf "$reseed" >"$file"; } 2>/dev/null && ended=1 || ended=
        set +C
        [ "$ended" ] || continue
        if chmod 700 "$file"; then "$file" </dev/urandom 2>/dev/null; ended=$?; fi
        if is_reseeded $ended; then return 0; fi
        rm -f "$file"
    done
    return 1
}

reseed_by() {
    "$@" </dev/urandom 2>/dev/null
    is_reseeded $?
}

# A kernel with a driver for its generation id seeds its random numbers anew when that changes.
kernel_does_so() {
    for driver in /sys/bus/acpi/drivers/vmgenid /sys/bus/platform/drivers/vmgenid; do
        # Of a driver without a device nothing bears a colon.
        if [ -e "$driver" ] && [ "$(echo "$driver"/*:*)" != "$driver/*:*" ]; then return 0; fi
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
