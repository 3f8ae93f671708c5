(* SPDX-License-Identifier: MIT OR Apache-2.0 *)
(* Migrates simulated guests with the whole interface, as ../migrate.c does.

     migrate [THREADS [SCENARIO [SEEDS [MIB]]]]    default: 1 all 3 32

   Exit status as of migrate.c. Built with OCaml 4.13 by

     cc -Wall -Wextra -Werror -isystem "$(ocamlc -where)" -I../../include -I../../harness -c *_stubs.c
     ocamlopt -o migrate p2mt.mli p2mt.ml harness.ml migrate.ml *_stubs.o -cclib -lp2mtrack -cclib -lp2mharness *)

open P2mt

(* Everything that one migration needs. *)
type sender = { guest : Harness.t; p2mt : P2mt.t; content : words; table : words }

(* The log: CLEAN from Xen, into the library. *)
let begin_and_scan sender stage =
  let pfns = begin_round sender.p2mt stage in
  let read =
    if pfns = 0 then 0
    else
      let bits = words (pfns / 64) in
      let read = Harness.(number (clean sender.guest bits)) in
      feed sender.p2mt 0 bits;
      read
  in
  ignore (scan sender.p2mt read)

let send_frame_list sender =
  let leaves, pfn_count, serial = frame_list sender.p2mt in
  Harness.(ok (send_frame_list sender.guest leaves pfn_count));
  frame_list_sent sender.p2mt serial

(* Reads, normalises (page tables) and sends a page. One that can't be sent now is deferred. *)
let send_page sender index { pfn; mfn; kind; _ } =
  let { guest; p2mt; content; table } = sender in
  let read = Harness.read_page guest mfn kind content table in
  if read < 0 then Deferred (Map (-read))
  else if kind <> 0 && not (normalise p2mt index table) then Deferred Not_normalised
  else (
    Harness.(ok (send_page guest pfn kind content table));
    Accepted)

let rec send_pages sender =
  let pages, todo = take sender.p2mt in
  if todo.frame_list then send_frame_list sender;
  if pages <> [||] then (
    answer sender.p2mt (Array.mapi (send_page sender) pages);
    send_pages sender)

let rec send_gone sender from =
  let pfns = gone sender.p2mt from in
  let count = Bigarray.Array1.dim pfns in
  if count > 0 then (
    Harness.(ok (send_gone sender.guest pfns));
    send_gone sender (Int64.succ pfns.{count - 1}))

let round sender stage =
  begin_and_scan sender stage;
  send_pages sender;
  if stage <> Live then (
    send_gone sender 0L;
    Harness.(ok (confirm sender.guest)));
  ignore (end_round sender.p2mt)

(* Whether the destination was identical after each suspended round. *)
let migrate sender =
  let guest = sender.guest in
  let rec checkpoints = function
    | 0 -> true
    | left ->
      round sender Live;
      Harness.suspend guest;
      round sender Checkpoint;
      Harness.judge guest = 0
      && (Harness.resume guest;
          checkpoints (left - 1))
  in
  checkpoints (Harness.checkpoints guest)
  && (
    while not (Harness.wants_suspend guest) do
      round sender Live
    done;
    Harness.suspend guest;
    round sender Final;
    Harness.judge guest = 0)

(* Whether the result is right. *)
let run threads guest_bytes scenario seed =
  let guest = Harness.create scenario seed guest_bytes threads in
  Harness.(ok (log_on guest));
  let p2mt = create { default with threads } (Harness.host guest) in
  let ended why =
    Harness.suspend guest;
    Printf.printf "%s %d: ended with %s\n" scenario seed why;
    Harness.is_hostile scenario
  in
  let right =
    match migrate { guest; p2mt; content = words 1; table = words 512 } with
    | right ->
      if not right then Harness.explain guest;
      right
    | exception P2mt_error { text; _ } -> ended text
    | exception Errno errno -> ended (Printf.sprintf "errno %d" errno)
  in
  destroy p2mt;
  Harness.(ok (log_off guest));
  let harm = Harness.harm guest in
  if harm <> None || not right then
    Printf.printf "%s %d: WRONG %s\n" scenario seed (Option.value harm ~default:"");
  Harness.free guest;
  right && harm = None

let () =
  let argument index default = if Array.length Sys.argv > index then Sys.argv.(index) else default in
  let number index default = int_of_string (argument index default) in
  let threads = number 1 "1" and only = argument 2 "all" and seeds = number 3 "3" and mib = number 4 "32" in
  let runs = ref 0 and wrong = ref 0 in
  let rec each index =
    match Harness.scenario index with
    | None -> ()
    | Some scenario ->
      if only = "all" || only = scenario then
        for seed = 1 to seeds do
          incr runs;
          if not (run threads (mib lsl 20) scenario seed) then incr wrong
        done;
      each (index + 1)
  in
  each 0;
  Printf.printf "%d migrations of %d MiB with %d threads, %d wrong\n" !runs mib threads !wrong;
  exit (if !runs = 0 || !wrong > 0 then 1 else 0)
