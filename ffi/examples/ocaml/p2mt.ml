(* SPDX-License-Identifier: MIT OR Apache-2.0 *)
(* libp2mtrack for OCaml: types over p2mt_stubs.c. The stubs depend on the order of constructors and
   fields here: change the two files together. Documentation is in p2mt.mli. *)

open Bigarray

type words = (int64, int64_elt, c_layout) Array1.t

let words count = Array1.create Int64 C_layout count
let none = -1L

type code =
  | Host | Size | Forked | Threads | Busy | Argument | Environment | Uncertain | Order | Page | Roots | Structure | P2m_size
  | Too_many_deferred | Entry | Table | Unaccounted | Panic
  | Unknown of int

exception P2mt_error of { code : code; errnum : int; level : int; pfn : int64; mfn : int64; text : string }
exception Errno of int

let eio = 5
let not_owned = Errno 4096

type roots = { pfn_count : int64; frame_list_list : int64; p2m_cr3 : int64; p2m_vaddr : int64; generation : int64 }
type transfer = Into of int64 | Came of int64
type level = Error | Warning | Info

type host = {
  domain_frames : unit -> int;
  roots : unit -> roots;
  read : int64 -> words -> unit;
  map : words -> (nativeint, int) result array;
  unmap : nativeint array -> unit;
  types : words -> int array;
  unlogged : unit -> words;
  accepts_transfer : unit -> bool;
  log : level -> string -> unit;
  m2p : nativeint;
  m2p_frames : int;
  compat_m2p_mfn : int64;
  transfers : unit -> transfer array;
}

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

let default =
  { width = Width_64; mode = Full; threads = 0; kernel = Auto; verify = Verify_dirty; alias = Alias_refuse;
    foreign_pte = Foreign_pte_refuse; uncertain_rounds_max = 0; unaccounted = Unaccounted_refuse }

type stage = Live | Checkpoint | Final
type page = { pfn : int; mfn : int; entry : int64; kind : int; causes : int }
type defer = Map of int | Not_normalised | No_answer
type answer = Accepted | Deferred of defer | Failed of int
type todo = { remap : bool; frame_list : bool }

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
  unaccounted_frames : int option;
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

(* The custom block. *)
type handle

(* The arguments of a callback; valid until it returns. *)
type call

(* code, errnum, level, pfn, mfn, text *)
type raw_error = int * int * int * int64 * int64 * string
type 'a outcome = ('a, int) result

external raw_version : unit -> int = "ml_p2mt_version"
external strerror : int -> string = "ml_p2mt_strerror"
external raw_create : config -> host -> (call -> int) array -> (handle, raw_error) result = "ml_p2mt_create"
external raw_destroy : handle -> unit outcome = "ml_p2mt_destroy"
external last_error : handle -> raw_error outcome = "ml_p2mt_last_error"
external raw_begin : handle -> stage -> int outcome = "ml_p2mt_begin"
external raw_feed : handle -> int -> words -> unit outcome = "ml_p2mt_feed"
external raw_scan : handle -> int -> report outcome = "ml_p2mt_scan"
external raw_take : handle -> (page array * todo) outcome = "ml_p2mt_take"
external raw_normalise : handle -> int -> words -> unit outcome = "ml_p2mt_normalise"
external raw_answer : handle -> answer array -> unit outcome = "ml_p2mt_answer"
external raw_accept : handle -> int -> unit outcome = "ml_p2mt_accept"
external raw_frame_list : handle -> (words * int64 * int) outcome = "ml_p2mt_frame_list"
external raw_frame_list_sent : handle -> int -> unit outcome = "ml_p2mt_frame_list_sent"
external raw_return : handle -> words -> unit outcome = "ml_p2mt_return"
external raw_gone : handle -> int64 -> words outcome = "ml_p2mt_gone"
external raw_cleared_ptes : handle -> words outcome = "ml_p2mt_cleared_ptes"
external raw_end : handle -> report outcome = "ml_p2mt_end"
external raw_cancel : handle -> unit outcome = "ml_p2mt_cancel"
external raw_verify : handle -> verify -> unit outcome = "ml_p2mt_verify"
external raw_stats : handle -> stats outcome = "ml_p2mt_stats"
external raw_why : handle -> int64 -> why outcome = "ml_p2mt_why"
external mfn_of_read : call -> int64 = "ml_p2mt_mfn_of_read"
external mfns_of_map : call -> words = "ml_p2mt_mfns_of_map"
external mfns_of_types : call -> words = "ml_p2mt_mfns_of_types"
external addresses_of_unmap : call -> nativeint array = "ml_p2mt_addresses_of_unmap"
external level_of_log : call -> int = "ml_p2mt_level_of_log"
external text_of_log : call -> string = "ml_p2mt_text_of_log"
external set_domain_frames : call -> int -> unit = "ml_p2mt_set_domain_frames"
external set_roots : call -> roots -> unit = "ml_p2mt_set_roots"
external set_read : call -> words -> unit = "ml_p2mt_set_read"
external set_map : call -> (nativeint, int) result array -> unit = "ml_p2mt_set_map"
external set_types : call -> int array -> unit = "ml_p2mt_set_types"
external set_unlogged : call -> words -> unit = "ml_p2mt_set_unlogged"
external set_accepts_transfer : call -> bool -> unit = "ml_p2mt_set_accepts_transfer"
external set_transfers : call -> transfer array -> unit = "ml_p2mt_set_transfers"

type t = { handle : handle; raised : exn option ref (* by a callback *) }

let code = function
  | -5 -> Host | -7 -> Size | -10 -> Forked | -11 -> Threads | -16 -> Busy | -22 -> Argument | -38 -> Environment
  | -62 -> Uncertain | -71 -> Order | -72 -> Page | -73 -> Roots | -74 -> Structure | -75 -> P2m_size | -76 -> Too_many_deferred
  | -77 -> Entry | -78 -> Table | -80 -> Unaccounted | -131 -> Panic
  | code -> Unknown code

let fail (number, errnum, level, pfn, mfn, text) =
  raise (P2mt_error { code = code number; errnum; level; pfn; mfn; text })

let outcome t result =
  match (!(t.raised), result) with
  | Some raised, _ ->
    t.raised := None;
    raise raised
  | None, Ok value -> value
  | None, Result.Error number -> (
    match last_error t.handle with
    | Ok ((kept, _, _, _, _, _) as error) when kept = number -> fail error
    | _ -> fail (number, 0, -1, none, none, strerror number) (* the handle did not keep it *))

let version () =
  let version = raw_version () in
  (version lsr 16, (version lsr 8) land 255, version land 255)

(* Callbacks, in the order of struct p2mt_host. *)
let callbacks host =
  let read call =
    let frame = words 512 in
    host.read (mfn_of_read call) frame;
    set_read call frame
  and log call =
    let level = match level_of_log call with 1 -> Error | 2 -> Warning | _ -> Info in
    host.log level (text_of_log call)
  in
  [| (fun call -> set_domain_frames call (host.domain_frames ()));
     (fun call -> set_roots call (host.roots ()));
     read;
     (fun call -> set_map call (host.map (mfns_of_map call)));
     (fun call -> host.unmap (addresses_of_unmap call));
     (fun call -> set_types call (host.types (mfns_of_types call)));
     (fun call -> set_unlogged call (host.unlogged ()));
     (fun call -> set_accepts_transfer call (host.accepts_transfer ()));
     log;
     (fun call -> set_transfers call (host.transfers ())) |]

let create config host =
  let raised = ref None in
  let guard callback call =
    match callback call with
    | () -> 0
    | exception Errno errno when errno > 0 -> -errno
    | exception other ->
      raised := Some other;
      -eio
  in
  match raw_create config host (Array.map guard (callbacks host)) with
  | Result.Error error -> fail error
  | Ok handle ->
    (* It calls `unmap`, which a finaliser in C must not do. The one in C frees the rest. *)
    Gc.finalise (fun handle -> ignore (raw_destroy handle)) handle;
    { handle; raised }

let destroy t = outcome t (raw_destroy t.handle)
let begin_round t stage = outcome t (raw_begin t.handle stage)
let feed t first bits = outcome t (raw_feed t.handle first bits)
let scan t read = outcome t (raw_scan t.handle read)
let take t = outcome t (raw_take t.handle)

let normalise t index table =
  match raw_normalise t.handle index table with
  | Result.Error number when code number = Table && Option.is_none !(t.raised) -> false
  | result ->
    outcome t result;
    true

let answer t answers = outcome t (raw_answer t.handle answers)
let accept t count = outcome t (raw_accept t.handle count)
let frame_list t = outcome t (raw_frame_list t.handle)
let frame_list_sent t serial = outcome t (raw_frame_list_sent t.handle serial)
let return t pfns = outcome t (raw_return t.handle pfns)
let gone t from = outcome t (raw_gone t.handle from)
let cleared_ptes t = outcome t (raw_cleared_ptes t.handle)
let end_round t = outcome t (raw_end t.handle)
let cancel t = outcome t (raw_cancel t.handle)
let verify t verify = outcome t (raw_verify t.handle verify)
let stats t = outcome t (raw_stats t.handle)
let why t pfn = outcome t (raw_why t.handle pfn)
