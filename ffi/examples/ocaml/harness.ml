(* SPDX-License-Identifier: MIT OR Apache-2.0 *)
(* The simulated Xen of harness.h, and the host of a migration over it. A toolstack has its own
   hypercalls instead. Not here: P2mt, of which only the types of the host are used. *)

type t

external scenario : int -> string option = "ml_harness_scenario"
external is_hostile : string -> bool = "ml_harness_is_hostile"
external create : string -> int -> int -> int -> t = "ml_harness_new"
external free : t -> unit = "ml_harness_free"
external checkpoints : t -> int = "ml_harness_checkpoints"
external wants_suspend : t -> bool = "ml_harness_wants_suspend"
external suspend : t -> unit = "ml_harness_suspend"
external resume : t -> unit = "ml_harness_resume"
external judge : t -> int = "ml_harness_judge"
external explain : t -> unit = "ml_harness_explain"
external harm : t -> string option = "ml_harness_harm"
external m2p_frames : t -> int = "ml_harness_m2p_frames"
external m2p : t -> nativeint = "ml_harness_m2p"

(* These return a number; a negative one is an errno. *)
external log_on : t -> int = "ml_harness_log_on"
external log_off : t -> int = "ml_harness_log_off"
external clean : t -> P2mt.words -> int = "ml_harness_clean"
external read_page : t -> int -> int -> P2mt.words -> P2mt.words -> int = "ml_harness_read_page"
external send_page : t -> int -> int -> P2mt.words -> P2mt.words -> int = "ml_harness_send_page"
external send_frame_list : t -> P2mt.words -> int64 -> int = "ml_harness_send_frame_list"
external send_gone : t -> P2mt.words -> int = "ml_harness_send_gone"
external confirm : t -> int = "ml_harness_confirm"
external domain_frames : t -> P2mt.words -> int = "ml_harness_domain_frames"
external roots : t -> P2mt.words -> int = "ml_harness_roots"
external read : t -> int64 -> P2mt.words -> int = "ml_harness_read"
external map : t -> P2mt.words -> (nativeint, int) result array = "ml_harness_map"
external unmap : t -> nativeint array -> int = "ml_harness_unmap"
external types : t -> P2mt.words -> int array -> int = "ml_harness_types"
external unlogged : t -> P2mt.words -> int = "ml_harness_unlogged"
external accepts_transfer : t -> int = "ml_harness_accepts_transfer"
external transfers : t -> P2mt.words -> int = "ml_harness_transfers"

let number result = if result < 0 then raise (P2mt.Errno (-result)) else result
let ok result = ignore (number result)

let host guest : P2mt.host =
  let domain_frames () =
    let frames = P2mt.words 1 in
    ok (domain_frames guest frames);
    Int64.to_int frames.{0}
  and roots () : P2mt.roots =
    let found = P2mt.words 5 in
    ok (roots guest found);
    { pfn_count = found.{0}; frame_list_list = found.{1}; p2m_cr3 = found.{2}; p2m_vaddr = found.{3};
      generation = found.{4} }
  and types mfns =
    let found = Array.make (Bigarray.Array1.dim mfns) 0 in
    ok (types guest mfns found);
    found
  and list_of ask =
    let rec with_capacity capacity =
      let list = P2mt.words capacity in
      let count = number (ask guest list) in
      if count > capacity then with_capacity count else Bigarray.Array1.sub list 0 count
    in
    with_capacity 64
  and transfer name : P2mt.transfer = if name >= 0L then Into name else Came (Int64.logand name Int64.max_int)
  and log (level : P2mt.level) text = if level = Error then prerr_endline ("p2mtrack: " ^ text) in
  { domain_frames; roots; read = (fun mfn words -> ok (read guest mfn words)); map = map guest;
    unmap = (fun addresses -> ok (unmap guest addresses)); types; unlogged = (fun () -> list_of unlogged);
    accepts_transfer = (fun () -> number (accepts_transfer guest) <> 0); log; m2p = m2p guest;
    m2p_frames = m2p_frames guest; compat_m2p_mfn = P2mt.none;
    transfers =
      (fun () ->
        let names = list_of transfers in
        Array.init (Bigarray.Array1.dim names) (fun index -> transfer names.{index})) }
