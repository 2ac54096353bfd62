import ast,os,re,subprocess,sys
from pathlib import Path
sys.path.insert(0,'/tmp/mv')
from mapping import M, full
ROOT=Path(sys.argv[1]); os.chdir(ROOT)
def path_of(mod):
    p=Path(*mod.split("."))
    return p/"__init__.py" if (p/"__init__.py").exists() else p.with_suffix(".py")
PK={"attacks.published"}
def new_path(mod):
    p=Path(*mod.split("."))
    return p.with_suffix(".py")
allold=set()
for pk in ("client","server","attacks","conf"):
    for p in Path(pk).rglob("*.py"):
        m=".".join(p.with_suffix("").parts)
        if m.endswith(".__init__"): m=m[:-9]
        allold.add(m)
missing=allold-set(M)-{"client","server","attacks","conf","client.corpora"}
assert not missing, missing
assert not set(M)-allold, set(M)-allold
SYM={}  # (old, name)-> new ; star
STAR={}
for o,n in M.items():
    if isinstance(n,str): STAR[o]=n
    else:
        for t,(d,names) in n.items():
            for x in names:
                if x=="*": STAR[o]=t
                else: SYM[o,x]=t
def where(old,name): return SYM.get((old,name),STAR[old])
def segments(src):
    tree=ast.parse(src); lines=src.splitlines(keepends=True)
    body=tree.body; doc=None; i=0
    if body and isinstance(body[0],ast.Expr) and isinstance(body[0].value,ast.Constant) and isinstance(body[0].value.value,str):
        doc="".join(lines[:body[0].end_lineno]); start=body[0].end_lineno; i=1
    else: start=0
    header=[]; segs=[]; prev=start
    def isimp(n):
        if isinstance(n,(ast.Import,ast.ImportFrom)): return True
        return isinstance(n,ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)
    for n in body[i:]:
        text="".join(lines[prev:n.end_lineno]); prev=n.end_lineno
        if isimp(n): header.append(text.strip("\n")+"\n"); continue
        if isinstance(n,ast.Expr) and isinstance(n.value,ast.Constant) and isinstance(n.value.value,str) and segs:
            segs[-1][1]+=text; continue
        names=[]
        if isinstance(n,(ast.FunctionDef,ast.ClassDef,ast.AsyncFunctionDef)): names=[n.name]
        elif isinstance(n,ast.Assign):
            for t in n.targets: names+=[x.id for x in ast.walk(t) if isinstance(x,ast.Name)]
        elif isinstance(n,ast.AnnAssign): names=[n.target.id]
        segs.append([names,text])
    return doc,header,segs
pieces={}  # new -> list of (main?,doc,header,body)
def put(new,main,doc,header,body): pieces.setdefault(new,[]).append((main,doc,header,body))
moves=[]
for o,n in M.items():
    p=path_of(o); src=p.read_text()
    if isinstance(n,str):
        put(n,True,None,None,src); moves.append((o,n)); continue
    doc,header,segs=segments(src)
    groups={}
    for names,text in segs:
        t={where(o,x) for x in names} or {STAR[o]}
        assert len(t)==1,(o,names,t)
        groups.setdefault(t.pop(),[]).append((names,text))
    defined={x:where(o,x) for names,_ in segs for x in names}
    for t,gs in groups.items():
        body="".join(x for _,x in gs)
        extra=[f"from {o} import {x}\n" for x,w in defined.items() if w!=t and re.search(rf"\b{re.escape(x)}\b",body)]
        d=n[t][0]
        docs=doc if d=="*" else (f'"""{d}"""\n' if d else None)
        put(t,d=="*",docs,header+extra,body)
    if STAR[o] in pieces: moves.append((o,STAR[o]))
# git mv
for o,n in moves:
    a,b=path_of(o),new_path(n)
    if o in PK: continue
    if a==b: continue
    tmp=Path("_mv")/b; tmp.parent.mkdir(parents=True,exist_ok=True)
    subprocess.run(["git","mv","-k",str(a),str(tmp)],check=True)
subprocess.run(["git","mv","attacks/published","_mv/published"],check=True)
for f in sorted(Path("_mv").rglob("*.py")):
    if "published" in f.parts: continue
    b=f.relative_to("_mv"); b.parent.mkdir(parents=True,exist_ok=True)
    subprocess.run(["git","mv","-f",str(f),str(b)],check=True)
Path("fedser/reports/paper").mkdir(parents=True,exist_ok=True)
subprocess.run(["git","mv","_mv/published","fedser/reports/paper/published"],check=True)
# old leftovers of fully split modules
for o,n in M.items():
    p=Path(*o.split(".")).with_suffix(".py")
    news={new_path(x) for x in pieces}
    if p.exists() and p not in news: subprocess.run(["git","rm","-qf",str(p)])
for new,ps in pieces.items():
    if new=="fedser.reports.paper.published": 
        target=Path("fedser/reports/paper/published/__init__.py")
    else: target=new_path(new)
    ps=sorted(ps,key=lambda x:x[0])  # moved-in first
    if len(ps)==1 and ps[0][2] is None: text=ps[0][3]
    else:
        doc=next((d for m,d,h,b in ps if m and d),None) or next((d for m,d,h,b in ps if d),None)
        heads=[];bodies=[]
        for m,d,h,b in ps:
            if h is None:
                dd,hh,ss=segments(b); doc=dd; heads+=hh; bodies.append("".join(x for _,x in ss))
            else: heads+=h; bodies.append(b)
        text=(doc or "")+"\n"+"".join(heads)+"\n\n"+"\n\n".join(bodies)
    target.parent.mkdir(parents=True,exist_ok=True); target.write_text(text)
# __init__ in all packages
for pk in ("client","server","attacks","conf","common","fedser"):
    for d in [Path(pk),*Path(pk).rglob("*")]:
        if d.is_dir() and any(d.rglob("*.py")) and "__pycache__" not in d.parts and not (d/"__init__.py").exists(): (d/"__init__.py").touch()
print("moved")
