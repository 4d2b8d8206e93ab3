from typing import Any

ffi_api_version: tuple[int, int]
cpu_instruction_set: str
has_cuda: bool

class Plan:
    @property
    def box(self) -> list[int]: ...
    @property
    def spans(self) -> list[list[list[int]]]: ...
    @property
    def tiles(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def lanes(self) -> int: ...
    @property
    def chunk_lines(self) -> int: ...
    @property
    def chunk_columns(self) -> int: ...
    @property
    def useful(self) -> int: ...
    @property
    def visited(self) -> int: ...
    @property
    def packed(self) -> int: ...

def handlers(platform: str) -> dict[str, dict[str, Any]]: ...
def windows(
    length: int, kernel_size: int, stride: int, dilation: int, is_causal: bool, boundary: str
) -> tuple[list[int], list[int]]: ...
def inverse(
    length: int, kernel_size: int, stride: int, dilation: int, is_causal: bool, boundary: str
) -> tuple[list[int], list[int]]: ...
def box_bounds(
    length: int,
    kernel_size: int,
    stride: int,
    is_causal: bool,
    boundary: str,
    begin: int,
    end: int,
) -> list[tuple[int, int]]: ...

class Problem:
    @staticmethod
    def of(
        batch: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        value_dim: int,
        additional: int,
        length: tuple[int, ...],
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        is_causal: tuple[bool, ...],
        boundary: tuple[str, ...],
        bias_batch: int = 0,
    ) -> Problem: ...

def cpu_plan(which: str, problem: Problem, bytes: int) -> Plan: ...
def cuda_fused_backward_workspace(problem: Problem) -> int: ...
def cuda_naive_backward_workspace(problem: Problem, float64: bool) -> int: ...
def cuda_unfused_workspaces(problem: Problem, float64: bool) -> tuple[int, int]: ...
