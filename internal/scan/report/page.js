"use strict";
(function () {
  var form = document.querySelector("form.filters");
  var rows = Array.prototype.slice.call(document.querySelectorAll("#list > .finding"));
  var count = document.getElementById("count");
  var none = document.getElementById("none");
  var more = document.getElementById("more");
  var first = count.textContent;
  var texts = null;
  var timer = 0;
  if (rows.length > 1) form.hidden = false;

  // The words of a finding are read once, when they are first searched.
  function text(i) {
    if (!texts) texts = rows.map(function () { return null; });
    if (texts[i] === null) texts[i] = (rows[i].firstElementChild.textContent + " " + rows[i].querySelector("dd").textContent).toLowerCase();
    return texts[i];
  }

  function apply() {
    var words = form.querySelector("#q").value.toLowerCase().split(/\s+/).filter(Boolean);
    var want = [];
    form.querySelectorAll("select").forEach(function (s) {
      if (s.selectedIndex > 0) want.push([s.getAttribute("data-filter"), s.value]);
    });
    var shown = 0;
    rows.forEach(function (row, i) {
      var ok = want.every(function (w) { return row.getAttribute("data-" + w[0]) === w[1]; }) &&
        words.every(function (w) { return text(i).indexOf(w) >= 0; });
      if (row.hidden === ok) row.hidden = !ok;
      if (ok) shown++;
    });
    var filtered = want.length + words.length > 0;
    count.textContent = filtered ? shown + " of " + rows.length + " findings on this page match" + (more ? "; others are not on this page" : "") : first;
    none.hidden = shown > 0 || rows.length === 0;
  }

  form.addEventListener("input", function () { clearTimeout(timer); timer = setTimeout(apply, 60); });
  form.addEventListener("submit", function (e) { e.preventDefault(); apply(); });
  form.addEventListener("reset", function () { setTimeout(apply, 0); });
  document.addEventListener("keydown", function (e) {
    if (e.key === "/" && !e.ctrlKey && !e.metaKey && !e.altKey && !/^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName) && !form.hidden) {
      e.preventDefault();
      form.querySelector("#q").focus();
    }
  });

  function say(button, word) {
    button.textContent = word;
    setTimeout(function () { button.textContent = "Copy"; }, 2000);
  }
  // Where the clipboard is out of reach, the text is selected, so that a key copies it.
  function select(button, code) {
    var range = document.createRange();
    range.selectNodeContents(code);
    var chosen = getSelection();
    chosen.removeAllRanges();
    chosen.addRange(range);
    var done = false;
    try { done = document.execCommand("copy"); } catch (e) { done = false; }
    say(button, done ? "Copied" : "Selected");
  }
  document.querySelectorAll(".copy").forEach(function (b) { b.hidden = false; });
  document.getElementById("list").addEventListener("click", function (e) {
    var b = e.target.closest(".copy");
    if (!b) return;
    var code = b.parentNode.querySelector("code");
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(function () { say(b, "Copied"); }, function () { select(b, code); });
    else select(b, code);
  });

  // On paper everything is open.
  var opened = [];
  addEventListener("beforeprint", function () {
    opened = Array.prototype.filter.call(document.querySelectorAll("#list > .finding:not([hidden]), #list > .finding:not([hidden]) > .body > details"), function (d) { return !d.open; });
    opened.forEach(function (d) { d.open = true; });
  });
  addEventListener("afterprint", function () { opened.forEach(function (d) { d.open = false; }); });
})();
