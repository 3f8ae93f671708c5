(* SPDX-License-Identifier: MIT OR Apache-2.0 *)
(** libp2mtrack for OCaml: its handle, its calls, its errors. [p2mtrack.h] says what each call does;
    this file says what is different here. Not an installed library, but a starting point for one.

    The pfn and mfn of a page that is taken are [int]. Values that may have any 64 bits are [int64]:
    all ones for none, and what a guest wrote, of which [int] would lose a bit. *)

(** A migration. It is destroyed when it is collected, unless a closure of its host refers to it. *)
type t

(** 64-bit words: a frame has 512. *)
type words = (int64, Bigarray.int64_elt, Bigarray.c_layout) Bigarray.Array1.t

val words : int -> words

(** P2MT_NONE. *)
val none : int64

(** {1 Errors} *)

type code =
  | Host | Size | Forked | Threads | Busy | Argument | Environment | Uncertain | Order | Page | Roots | Structure | P2m_size
  | Too_many_deferred | Entry | Table | Unaccounted | Panic
  | Unknown of int

(** A call failed. [errnum] is negative, as in [p2mt_error]. If the error names none, [errnum] is 0,
    [level] is -1, [pfn] and [mfn] are {!none}. *)
exception P2mt_error of { code : code; errnum : int; level : int; pfn : int64; mfn : int64; text : string }

(** For callbacks: a (positive) errno. Any other exception of a callback is raised again by the call
    that ran it, after the library has returned. *)
exception Errno of int

(** P2MT_NOT_OWNED: a frame does not belong to the domain (now). *)
val not_owned : exn

(** {1 The host} *)

type roots = { pfn_count : int64; frame_list_list : int64; p2m_cr3 : int64; p2m_vaddr : int64; generation : int64 }

(** What a transfer entry of the grant table names: a pfn, or the mfn of a frame that arrived. *)
type transfer = Into of int64 | Came of int64

type level = Error | Warning | Info

(** Callbacks run on the thread of the call, which keeps the runtime's lock. They own their
    arguments. *)
type host = {
  domain_frames : unit -> int;
  roots : unit -> roots;
  read : int64 -> words -> unit; (** an mfn; fills the words *)
  map : words -> (nativeint, int) result array; (** mfns; an address or an errno for each *)
  unmap : nativeint array -> unit;
  types : words -> int array; (** mfns *)
  unlogged : unit -> words; (** pfns *)
  accepts_transfer : unit -> bool;
  log : level -> string -> unit;
  m2p : nativeint; (** where the m2p is mapped, until the handle is destroyed *)
  m2p_frames : int;
  compat_m2p_mfn : int64;
  transfers : unit -> transfer array; (** an entry that is committed but not completed: both *)
}

(** {1 Choices} *)

type width = Width_32 | Width_64
type mode = Full | Passive | Host_reads_p2m
type kernel = Auto | Scalar | Wide | Avx2 | Avx512
type verify = Verify_dirty | Verify_full
type alias = Alias_refuse | Alias_copy
type foreign_pte = Foreign_pte_refuse | Foreign_pte_clear
type unaccounted = Unaccounted_refuse | Unaccounted_report

type config = {
  width : width;
  mode : mode;
  threads : int;
  kernel : kernel;
  verify : verify;
  alias : alias;
  foreign_pte : foreign_pte;
  uncertain_rounds_max : int;
  unaccounted : unaccounted;
}

(** The defaults of [p2mtrack.h] (zeroes), for a 64-bit guest. *)
val default : config

(** {1 Rounds} *)

type stage = Live | Checkpoint | Final
type page = { pfn : int; mfn : int; entry : int64; kind : int (** [p2mt_page.type]: 0 is data *); causes : int }
type defer = Map of int (** an errno *) | Not_normalised | No_answer
type answer = Accepted | Deferred of defer | Failed of int (** an errno *)

(** What the host has to do before it sends the pages that it took. *)
type todo = { remap : bool; frame_list : bool }

(** The fields of [p2mt_report] that a policy uses. *)
type report = {
  round : int;
  pages_owed : int;
  pages_accepted : int;
  pages_left : int;
  entries_beyond_log_dirty : int;
  settled_gone : int;
  uncertain : int;
  p2m_unreadable : bool;
  dirty_rate : float;
  unaccounted_frames : int option; (** none while the guest runs, and until everything is settled *)
}

type stats = {
  rounds : int;
  rounds_given_up : int;
  accepted : int;
  deferred : int;
  entries_changed : int;
  beyond_log_dirty : int;
  owed : int;
  shadow_bytes : int;
}

type why = { why_causes : int; why_defer : int; why_entry : int64 }

val version : unit -> int * int * int
val create : config -> host -> t

(** Destroys it now. May be called again; every other call fails with [Argument] then. *)
val destroy : t -> unit

(** The number of pfns of the log to read and clear now, and pass to {!feed}; a multiple of
    32,768. *)
val begin_round : t -> stage -> int

(** [feed t first bits]: 64 pfns a word. *)
val feed : t -> int -> words -> unit

(** [scan t read] *)
val scan : t -> int -> report

val take : t -> page array * todo

(** [normalise t index table]: false means {!Not_normalised}. *)
val normalise : t -> int -> words -> bool

(** One answer for each page that was taken. *)
val answer : t -> answer array -> unit

(** Accepts all pages that were taken; the number is theirs. *)
val accept : t -> int -> unit

(** Leaves, the number of pfns that they cover, and the list's serial for {!frame_list_sent}. *)
val frame_list : t -> words * int64 * int

val frame_list_sent : t -> int -> unit

(** Pfns that were lost on the way. *)
val return : t -> words -> unit

(** [gone t from]: the next pfns; none at the end. *)
val gone : t -> int64 -> words

(** PTEs that were cleared: for each, the pfn of its table and the frame that it named. *)
val cleared_ptes : t -> words

val end_round : t -> report
val cancel : t -> unit
val verify : t -> verify -> unit
val stats : t -> stats
val why : t -> int64 -> why
