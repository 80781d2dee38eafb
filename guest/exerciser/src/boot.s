# From the PVH entry (32-bit protected mode, paging off, EBX = start info) to 64-bit Rust.

    .section .note.Xen, "a", @note
    .align 4
    .long 4, 4, 18                  # name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

    .section .text.boot, "ax"
    .code32
    .globl pvh_start
pvh_start:
    cld
    movl %ebx, %ebp
    # Identity map of 8 GiB with 2 MiB pages, usable from user mode.
    movl $page_directories, %edi
    movl $0x87, %eax
    xorl %edx, %edx
1:  movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $0x200000, %eax
    adcl $0, %edx
    addl $8, %edi
    cmpl $page_directories + 8 * 4096, %edi
    jne 1b
    movl $page_directories + 7, %eax
    movl $pointer_table, %edi
    movl $8, %ecx
2:  movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $4096, %eax
    addl $8, %edi
    decl %ecx
    jnz 2b
    movl $pointer_table + 7, root_table
    movl $root_table, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $long_start

    .code64
long_start:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $boot_stack_end, %esp
    # TSS base into its descriptor.
    movl $task_state, %eax
    movw %ax, gdt + 0x28 + 2
    shrl $16, %eax
    movb %al, gdt + 0x28 + 4
    movb %ah, gdt + 0x28 + 7
    movl $0x28, %eax
    ltr %ax
    movl %ebp, %edi
    call kernel_main
3:  hlt
    jmp 3b

# Entry points of the 256 vectors, 16 bytes apart: each pushes (a dummy error code and) its number.
    .globl vector_stubs
    .align 16
vector_stubs:
    .set i, 0
    .rept 256
    .align 16
    .if (i == 8) || (i >= 10 && i <= 14) || (i == 17)
    .else
    pushq $0
    .endif
    pushq $i
    jmp vector_entry
    .set i, i + 1
    .endr

vector_entry:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rdi
    call handle_vector
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

# user_call(function, argument) -> result: runs `function(argument)` at privilege level 3 until it executes UD2 with its
# result in RAX. Callee-saved registers are kept on the kernel's stack meanwhile.
    .globl user_call
user_call:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, user_return_stack
    movq %rdi, %rcx
    movq %rsi, %rdi
    pushq $0x23
    pushq $user_stack_end
    pushfq
    pushq $0x1b
    pushq %rcx
    iretq

# Where handle_vector sends a finished user_call: result in RAX.
    .globl user_return
user_return:
    movq user_return_stack, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    retq

# What runs at privilege level 3. Argument in RDI, result in RAX, ended by UD2.

# Counts RDI rounds of a 64-bit linear congruence.
    .globl user_mix
user_mix:
    movabsq $6364136223846793005, %rcx
    movabsq $1442695040888963407, %rdx
    xorl %eax, %eax
4:  imulq %rcx, %rax
    addq %rdx, %rax
    decq %rdi
    jnz 4b
    ud2

# Writes one word into each page of the descriptor RDI points to: start, pages, value.
    .globl user_dirty
user_dirty:
    movq (%rdi), %rax
    movq 8(%rdi), %rcx
    movq 16(%rdi), %rdx
5:  movq %rdx, (%rax)
    addq $4096, %rax
    decq %rcx
    jnz 5b
    ud2

# Spins until the word RDI points to is not zero; counts in the word after it.
    .globl user_spin
user_spin:
6:  incq 8(%rdi)
    cmpq $0, (%rdi)
    je 6b
    movq 8(%rdi), %rax
    ud2

# A second processor starts here in real mode (copied to 0x8000).
    .globl ap_trampoline, ap_trampoline_end
    .code16
ap_trampoline:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl 0x8000 + (ap_gdt_pointer - ap_trampoline)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x18, $0x8000 + (ap_protected - ap_trampoline)
    .code32
ap_protected:
    movl $root_table, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmp $8, $ap_long
    .align 8
ap_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
ap_gdt_pointer:
    .word 31
    .long 0x8000 + (ap_gdt - ap_trampoline)
ap_trampoline_end:

    .section .text
    .code64
ap_long:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $ap_stack_end, %esp
    call ap_main
7:  hlt
    jmp 7b

    .data
    .align 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 0x08 kernel code, 64-bit
    .quad 0x00cf93000000ffff        # 0x10 kernel data
    .quad 0x00affb000000ffff        # 0x18 user code, 64-bit
    .quad 0x00cff3000000ffff        # 0x20 user data
    .quad 0x0000890000000067        # 0x28 TSS
    .quad 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt
    .align 16
    .globl task_state
task_state:
    .long 0
    .quad interrupt_stack_end
    .fill 92, 1, 0

    .bss
    .align 4096
root_table: .skip 4096
pointer_table: .skip 4096
page_directories: .skip 8 * 4096
    .skip 65536
boot_stack_end:
    .skip 65536
interrupt_stack_end:
    .skip 16384
user_stack_end:
    .skip 16384
ap_stack_end:
    .globl user_return_stack
user_return_stack: .quad 0
