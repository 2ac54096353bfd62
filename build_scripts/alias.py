import re,ast,subprocess
from pathlib import Path
CAN={"Floats":"npt.NDArray[np.float32]","Ints":"npt.NDArray[np.int64]","Bools":"npt.NDArray[np.bool_]"}
files=[Path(f) for f in subprocess.run(["git","ls-files","-co","--exclude-standard","*.py"],capture_output=True,text=True).stdout.split()]
local=set()
for p in files:
    if p==Path("common/arrays.py"): continue
    s=p.read_text(); o=s; need=set()
    for n,d in CAN.items():
        line=f"{n} = {d}\n"
        if re.search(rf"^{re.escape(line)}",s,re.M):
            s=re.sub(rf"^{re.escape(line)}","",s,flags=re.M); need.add(n)
        elif re.search(rf"^{n} = ",s,re.M): local.add((str(p),n))
    if need:
        s=re.sub(r"^((?:from|import) )",f"from fedser.common.arrays import {', '.join(sorted(need))}\n\\1",s,count=1,flags=re.M)
    if s!=o: p.write_text(s)
print(local)
localmods={("fedser."+f[:-3].replace("/",".")).replace("fedser.fedser.","fedser."):n for f,n in local}
for p in files:
    s=p.read_text(); tree=ast.parse(s); lines=s.splitlines(keepends=True); ed=[]
    for n in ast.walk(tree):
        if isinstance(n,ast.ImportFrom) and n.module and n.module.startswith("fedser.") and n.module!="fedser.common.arrays":
            mv=[a for a in n.names if a.name in CAN and not any(n.module==m and a.name==x for m,x in ((("fedser."+f[:-3].replace("/",".")).replace("fedser.fedser.","fedser."),nm) for f,nm in local))]
            if not mv: continue
            keep=[a for a in n.names if a not in mv]
            f=lambda aa:", ".join(a.name+(f" as {a.asname}" if a.asname else "") for a in aa)
            ind=" "*n.col_offset
            t=f"{ind}from fedser.common.arrays import {f(mv)}\n"+(f"{ind}from {n.module} import {f(keep)}\n" if keep else "")
            ed.append((n.lineno-1,n.end_lineno,t))
    for a,b,t in sorted(ed,reverse=True): lines[a:b]=[t]
    if ed: p.write_text("".join(lines))
p=Path("common/arrays.py"); s=p.read_text()
s=s.replace("Arrays = dict","Floats = npt.NDArray[np.float32]\nInts = npt.NDArray[np.int64]\nBools = npt.NDArray[np.bool_]\nArrays = dict",1)
p.write_text(s)
